"""Intervals of shares whose values come in groups: the answers to one prompt."""

from __future__ import annotations

import math

import pytest
import torch

from specs_lightning.statistics.intervals import clustered, wilson


def test_one_value_a_group_is_wilson() -> None:
    found = clustered([[1.0]] * 7 + [[0.0]] * 13 + [[math.nan]])
    assert found is not None
    assert (found.value, found.n) == (7 / 20, 20)
    assert found.interval == pytest.approx(wilson(7 / 20, 20))


def test_values_that_repeat_each_other_are_no_further_evidence() -> None:
    found = clustered([[1.0] * 8] * 7 + [[0.0] * 8] * 13)
    assert found is not None and found.interval == pytest.approx(wilson(7 / 20, 20))


def test_values_as_different_as_others_count_in_full() -> None:
    found = clustered([[1.0, 0.0]] * 10)
    assert found is not None and found.interval == pytest.approx(wilson(0.5, 20))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_are_alike_groups_are_counted(value: float) -> None:
    found = clustered([[value] * 5] * 9)
    assert found is not None and found.interval == wilson(value, 9)


def test_of_nothing_there_is_no_estimate() -> None:
    assert clustered([]) is None
    assert clustered([[math.nan], []]) is None


def test_in_19_of_20_worlds_it_holds_the_true_share() -> None:
    """Prompts of different difficulty, four answers each; Wilson's on all answers would miss it far more often."""
    draw = torch.Generator().manual_seed(0)
    held, naive = 0, 0
    for _ in range(600):
        difficulty_P = (torch.rand(60, 1, generator=draw) < 0.5).float() * 0.8 + 0.1
        answers_P4 = (torch.rand(60, 4, generator=draw) < difficulty_P).float()
        found = clustered(answers_P4.tolist())
        assert found is not None and found.interval is not None
        low, high = found.interval
        held += low <= 0.5 <= high
        low, high = wilson(found.value, 240)
        naive += low <= 0.5 <= high
    assert 0.92 < held / 600 < 0.98
    assert naive / 600 < 0.85
