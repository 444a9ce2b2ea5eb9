"""Settings under dotted names, and what differs between two sets of them."""

from __future__ import annotations

from typing import Any

import pytest

from specs_lightning.settings.nested import NOT_SET, changes, flatten


def test_values_have_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, 2: None, "e": [{"f": 1}]}) == {
        "a.b": 1,
        "a.c": {},
        "2": None,
        "e": [{"f": 1}],
    }
    assert flatten({}) == {}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": {"b": 1}, "c": 2}, {"c": 2, "a": {"b": 1}}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", 1, 2)]),
        ({"a": {"b": {"c": 1, "d": 2}}}, {}, [("a.b.c", 1, NOT_SET), ("a.b.d", 2, NOT_SET)]),
        ({}, {"a": {}}, [("a", NOT_SET, {})]),
        ({"lora": None}, {"lora": {"rank": 8}}, [("lora", None, {"rank": 8})]),
        ({"a": [1]}, {"a": [2]}, [("a", [1], [2])]),
    ],
)
def test_each_value_that_differs_is_named(old: Any, new: Any, found: list[Any]) -> None:
    assert list(changes(old, new)) == found
