"""Work is divided over processes and put together in its order; what fails in one ends all.

Two processes are two threads here that gather by a barrier; trainings in two processes of their own are in
strategies/test_two_processes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers.two_threads import two_threads

from specs_lightning.system import ranks
from specs_lightning.system.ranks import OtherRankFailed, failing_together, gather, gather_shares, share


@pytest.fixture
def on_two(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], list[Any]]:
    return two_threads(monkeypatch)


def test_one_process_has_everything() -> None:
    assert (ranks.world_size(), ranks.rank()) == (1, 0)
    assert share([1, 2, 3]) == gather_shares([1, 2, 3]) == [1, 2, 3]
    assert gather("a") == ["a"]
    with pytest.raises(KeyError), failing_together():
        raise KeyError("mine")


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_shares_come_back_in_the_order_of_the_items(on_two: Any, count: int) -> None:
    items = list(range(count))
    assert on_two(lambda: share(items)) == [items[0::2], items[1::2]]
    assert on_two(lambda: gather_shares(share(items))) == [items, items]


def test_what_fails_in_one_process_is_told_in_the_other(on_two: Any) -> None:
    def fail_on_second() -> None:
        with failing_together():
            if ranks.rank():
                raise ValueError("no space")

    other, mine = on_two(fail_on_second)
    assert isinstance(other, OtherRankFailed) and str(other) == "process 1 of 2 failed: ValueError: no space"
    assert isinstance(mine, ValueError)


def test_a_failure_is_told_once_however_deep_it_is_and_whatever_is_made_of_it(on_two: Any) -> None:
    """The second process fails between two meetings, in the third of which the first one hears of it."""

    def fail_on_second() -> None:
        with failing_together():
            for number in range(5):
                with failing_together():
                    pass
                if ranks.rank() and number == 1:
                    raise MemoryError("no room")

    def fail_within() -> None:
        with failing_together():
            try:
                with failing_together():
                    if ranks.rank():
                        raise MemoryError("no room")
            except MemoryError as error:
                raise ValueError("could not gather") from error

    for fails, kind in ((fail_on_second, MemoryError), (fail_within, ValueError)):
        other, mine = on_two(fails)
        assert isinstance(other, OtherRankFailed) and str(other) == "process 1 of 2 failed: MemoryError: no room"
        assert isinstance(mine, kind)
        assert on_two(lambda: gather(ranks.rank())) == [[0, 1]] * 2, "neither still waits for the other"
