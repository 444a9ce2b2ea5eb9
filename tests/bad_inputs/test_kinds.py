"""How many kinds of what cannot be used there are tests of: wherever they stand, marked `bad_input(kind)`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
KINDS = {
    "answer formats",
    "checkpoints",
    "command lines",
    "data rows",
    "evaluation sets",
    "images",
    "judges' replies",
    "model folders",
    "pair files",
    "rewards",
    "run folders",
    "servers' requests",
    "settings",
    "sources",
}


def test_there_are_three_hundred_and_fifty_of_them_and_some_of_each_kind(request: pytest.FixtureRequest) -> None:
    items = request.session.items
    if len({item.path for item in items}) < 0.9 * len(list(TESTS.rglob("test_*.py"))):
        pytest.skip("they are counted where all tests are run")
    found = Counter(mark.args[0] for item in items for mark in item.iter_markers("bad_input"))
    assert found.keys() == KINDS
    assert min(found.values()) >= 5 and found.total() >= 350
