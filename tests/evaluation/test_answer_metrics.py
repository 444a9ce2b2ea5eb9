"""Metrics of judged answers say what a count by hand does, with what could not be judged left out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torchmetrics import Metric

from specs_lightning.evaluation.answer_metrics import (
    EXPLORATION,
    exploration_metrics,
    mean_of,
    powers_of_two,
    rate_metrics,
)
from specs_lightning.records.answers import Answer


def answer(prompt: str, correct: float, said: str | None = "1", **fields: Any) -> Answer:
    return Answer("id", prompt, "", 10, True, 1.0, correct, correct, said, **fields)


def computed(metrics: dict[str, Metric]) -> dict[str, Any]:
    return {name: metric.compute() for name, metric in metrics.items()}


def test_a_mean_leaves_out_what_is_not_known() -> None:
    assert mean_of([1.0, math.nan, 0.0, 0.5]).compute() == 0.5
    assert mean_of([0.1] * 3).compute().item() == pytest.approx(0.1, rel=1e-15)  # in float64


def test_the_rates_of_a_set() -> None:
    plain = Answer("id", "c", "", 40, True, 0.0, 1.0, 0.0)
    answers = [answer("a", 1.0), answer("b", math.nan), plain]
    found = {name: value.item() for name, value in computed(rate_metrics(answers)).items()}
    assert found == pytest.approx({"format_kept": 2 / 3, "correct": 1.0, "solved": 0.5, "tokens": 20.0})


def test_exploration_of_prompts_with_several_answers() -> None:
    """Right in one of two ways; wrong in the same way; wrong in two; of the last nothing could be judged."""
    answers = [
        answer("a", 1.0, "1", entropy=1.0, branching_factor=2.0),
        answer("b", 0.0, "2", entropy=3.0, branching_factor=4.0),
        answer("c", 0.0, "3"),
        answer("d", math.nan),
        answer("a", 0.0, "2"),
        answer("b", 0.0, "2"),
        answer("c", 0.0, "4"),
        answer("d", math.nan),
    ]
    found = computed(exploration_metrics(answers, EXPLORATION, completions_per_prompt=2))
    assert list(found) == list(EXPLORATION)
    assert found["pass_at_k"] == pytest.approx({"pass_at_1": 0.5 / 3, "pass_at_2": 1 / 3})
    assert found["stuck_rate"] == pytest.approx(1 / 3)
    assert (found["entropy"], found["rollout_branching_factor"]) == (2.0, 3.0)


def test_only_what_is_wanted_is_measured() -> None:
    assert list(exploration_metrics([answer("a", 1.0)], ["entropy"], 1)) == ["entropy"]
    assert exploration_metrics([answer("a", 1.0)], [], 1) == {}


def test_a_rank_without_answers_still_has_every_metric() -> None:
    """All ranks put theirs together: names must not depend on a rank's share."""
    share = exploration_metrics([answer("a", 1.0), answer("a", 0.0)], EXPLORATION, 2)
    assert exploration_metrics([], EXPLORATION, 2).keys() == share.keys()


@pytest.mark.parametrize(("largest", "powers"), [(1, (1,)), (2, (1, 2)), (7, (1, 2, 4)), (8, (1, 2, 4, 8))])
def test_powers_of_two_up_to_a_number(largest: int, powers: tuple[int, ...]) -> None:
    assert powers_of_two(largest) == powers
