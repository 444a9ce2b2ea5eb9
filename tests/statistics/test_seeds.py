"""Means over seeds and paired tests, against scipy, by hand, and by how often they are wrong."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from specs_lightning.statistics.seeds import mean_over_seeds, paired_by_prompt, paired_by_seed

SEEDS = [0.61, 0.64, 0.70, 0.59]
OTHERS = [0.55, 0.60, 0.58, 0.57]


def test_the_interval_of_a_mean_is_students() -> None:
    found = mean_over_seeds(SEEDS)
    assert found is not None and found.interval is not None
    expected = stats.t.interval(0.95, 3, loc=found.value, scale=stats.sem(SEEDS))
    assert (found.value, found.n) == (pytest.approx(0.635), 4)
    assert found.interval == pytest.approx(expected)


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    alone = mean_over_seeds([0.5])
    assert alone is not None and (alone.value, alone.interval) == (0.5, None)
    assert mean_over_seeds([]) is None
    assert paired_by_seed([], []) is None


def test_seeds_are_paired() -> None:
    found = paired_by_seed(SEEDS, OTHERS)
    assert found is not None
    expected = stats.ttest_rel(SEEDS, OTHERS)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    other_order = paired_by_seed(SEEDS, OTHERS[::-1])
    assert other_order is not None and other_order.p != pytest.approx(expected.pvalue)


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5]])
def test_where_nothing_varies_there_is_no_p(values: list[float]) -> None:
    found = paired_by_seed(values, [0.25] * len(values))
    assert found is not None and (found.value, found.interval, found.p) == (0.25, None, None)


def test_p_over_prompts_is_that_of_all_signs() -> None:
    """Of the 2^8 signs, those that give a sum as far from 0."""
    differences = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, -1.0])
    signs = torch.tensor([[1 - 2 * (i >> bit & 1) for bit in range(8)] for i in range(256)], dtype=torch.float32)
    exact = ((signs @ differences).abs() >= 5).float().mean().item()
    assert paired_by_prompt(differences) == pytest.approx(exact, abs=0.015)
    assert paired_by_prompt(torch.empty(0)) is None
    assert paired_by_prompt(torch.zeros(20)) == 1.0


def test_p_over_prompts_below_005_is_as_rare_as_it_should_be() -> None:
    draw = torch.Generator().manual_seed(0)
    found = [paired_by_prompt(torch.randint(-1, 2, (80,), generator=draw).double(), 400) for _ in range(400)]
    assert 0.02 < sum(p < 0.05 for p in found if p is not None) / 400 < 0.08
