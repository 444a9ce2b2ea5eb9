"""The kinds of sets, by their names, and the weights that follow."""

from __future__ import annotations

import pytest

from specs_lightning.statistics.set_kinds import by_kind, kind_of, kind_weights


@pytest.mark.parametrize(
    ("name", "kind"), [("formats/boxed", "formats"), ("looks/dark/2", "looks"), ("boxed", ""), ("/boxed", "")]
)
def test_a_kind_is_what_stands_before_the_first_slash(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_sets_are_grouped_in_their_order_and_those_without_a_kind_together() -> None:
    names = ["formats/boxed", "one", "looks/dark", "formats/json", "two"]
    assert by_kind(names) == {
        "formats": ["formats/boxed", "formats/json"],
        "": ["one", "two"],
        "looks": ["looks/dark"],
    }


def test_kinds_weigh_alike_and_so_do_the_sets_of_each_in_the_order_of_the_names() -> None:
    weights = kind_weights(["formats/boxed", "one", "looks/dark", "formats/json", "two", "formats/tags"])
    assert [*weights.values()] == pytest.approx([1 / 9, 1 / 6, 1 / 3, 1 / 9, 1 / 6, 1 / 9])


def test_without_kinds_all_sets_weigh_alike() -> None:
    assert kind_weights(["a", "b", "c", "d"]) == dict.fromkeys("abcd", 0.25)
