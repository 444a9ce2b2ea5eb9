"""Differences between two models on the same prompts, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from specs_lightning.evaluation.paired_scores import paired_differences
from specs_lightning.metrics.bootstrap import mean_of_strata
from specs_lightning.records.answers import Answer


def answer(prompt: str, correct: float, task: str | None = None) -> Answer:
    return Answer("s", prompt, "", 1, True, 1.0, correct, correct, task=task)


def test_the_mean_over_strata_weighs_each_alike_and_its_interval_is_by_stratum() -> None:
    value, interval = mean_of_strata(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0]), torch.tensor([7, 7, 7, 7, 2]))
    assert value == pytest.approx((0.25 + 1) / 2)
    assert interval.low == pytest.approx(0.5)  # no draw gives the second stratum less than 1
    assert 0.7 < interval.high <= 1


def test_the_interval_of_one_stratum_covers_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(200):
        values = torch.randn(60, generator=generator) + 0.3
        interval = mean_of_strata(values, torch.zeros(60), resamples=500, seed=trial)[1]
        covered += interval.low <= 0.3 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_each_prompt_is_compared_with_itself() -> None:
    hard_and_easy = [0.0] * 50 + [1.0] * 50
    mine = [answer(f"p{i}", right) for i, right in enumerate(hard_and_easy)]
    other = [answer(f"p{i}", right) for i, right in enumerate([*hard_and_easy[:-10], *[0.0] * 10])]
    found = paired_differences(mine, other)["correct"]
    assert (found.value, found.n) == (pytest.approx(0.1), 100)
    assert 0.03 < found.interval.low < 0.07 and 0.13 < found.interval.high < 0.18  # ±0.06; unpaired ±0.14


def test_what_either_has_no_score_on_is_left_out_and_tasks_weigh_alike() -> None:
    mine = [answer("a", 1.0, "t"), answer("b", 1.0, "u"), answer("c", 0.0, "u"), answer("d", math.nan, "u")]
    other = [answer("b", 0.0, "u"), answer("a", 0.0, "t"), answer("c", 0.0, "u"), answer("d", 1.0, "u")]
    found = paired_differences(mine, [*other, answer("e", 1.0, "u")])
    assert (found["correct"].value, found["correct"].n) == (pytest.approx(2 / 3), 3)
    assert found["macro_mean"].value == pytest.approx((1 + 0.5) / 2)
    assert found["format_kept"].n == 4


def test_without_a_shared_prompt_there_is_nothing_to_tell() -> None:
    assert paired_differences([answer("a", 1.0)], [answer("b", 1.0)]) == {}
