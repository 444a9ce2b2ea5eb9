"""The scores of evaluation sets, by hand."""

from __future__ import annotations

import json
import math

import pytest
from rich.console import Console

from specs_lightning.evaluation.scores import logged, score, score_sets, scores_table
from specs_lightning.records.answers import Answer
from specs_lightning.statistics.intervals import wilson

NAN = math.nan


def answer(name: str, prompt: str, correct: float, kept: float = 1.0, said: str | None = "1", **more: float) -> Answer:
    return Answer(name, prompt, "", 10, True, kept, correct, correct * kept, said, **more)


ONE_EACH = [answer("id", "a", 1.0), answer("id", "b", 0.0), answer("id", "c", 1.0, kept=0.0), answer("id", "d", NAN)]
SEVERAL = [
    *(answer("ood", "a", right, entropy=0.5, branching_factor=2.0) for right in (1.0, 1.0, 0.0, 0.0)),
    *(answer("ood", "b", 0.0, said="7", entropy=1.5, branching_factor=3.0) for _ in range(4)),
]


def test_rates_leave_out_what_could_not_be_judged() -> None:
    scores = score_sets(ONE_EACH)["id"]
    assert (scores["n"], scores["answers"], scores["tokens"]) == (4, 4, 10)
    assert (scores["format_kept"], scores["correct"], scores["solved"]) == (0.75, 2 / 3, 1 / 3)
    assert scores["intervals"]["solved"] == pytest.approx(wilson(1 / 3, 3))
    assert not {"pass_at_k", "stuck_rate", "entropy", "rollout_branching_factor"} & set(scores)


def test_several_answers_a_prompt_tell_how_much_is_still_explored() -> None:
    scores = score_sets(SEVERAL)["ood"]
    assert (scores["n"], scores["answers"], scores["correct"]) == (2, 8, 0.25)
    assert scores["pass_at_k"] == pytest.approx({"1": 0.25, "2": (1 - 1 / 6) / 2, "4": 0.5})
    assert (scores["stuck_rate"], scores["entropy"], scores["rollout_branching_factor"]) == (0.5, 1.0, 2.5)


def test_exploration_has_intervals_over_prompts() -> None:
    """Eight answers to one prompt are no more evidence than their mean."""
    answers = [
        answer("id", f"{p}", float(i < p % 5), entropy=p % 5 / 10, branching_factor=1.0 + p % 5)
        for p in range(400)
        for i in range(8)
    ]
    scores = score_sets(answers)["id"]
    spread_of_mean = math.sqrt(2.0 / 400)  # the variance of 0, 1, 2, 3, 4 is 2
    for name, mean, unit in (("pass_at_1", 0.25, 1 / 8), ("entropy", 0.2, 0.1), ("rollout_branching_factor", 3.0, 1.0)):
        assert (scores["pass_at_k"]["1"] if name == "pass_at_1" else scores[name]) == pytest.approx(mean)
        low, high = scores["intervals"][name]
        assert (low + high) / 2 == pytest.approx(mean, abs=0.03 * unit)
        assert (high - low) / 2 == pytest.approx(1.96 * spread_of_mean * unit, rel=0.1)
    assert scores["intervals"]["pass_at_8"][0] < scores["pass_at_k"]["8"] == 0.8 < scores["intervals"]["pass_at_8"][1]


def test_they_are_json_and_one_row_of_numbers() -> None:
    scores = score_sets([*ONE_EACH, *SEVERAL, answer("none", "a", NAN)])
    assert json.loads(json.dumps(scores, allow_nan=False))["ood"]["pass_at_k"]["4"] == 0.5
    row = logged(scores)
    assert row["ood/pass_at_2"] == scores["ood"]["pass_at_k"]["2"]
    assert (row["id/solved_low"], row["id/solved_high"]) == scores["id"]["intervals"]["solved"]
    assert row["ood/pass_at_2_low"] <= row["ood/pass_at_2"] <= row["ood/pass_at_2_high"]
    assert all(isinstance(value, float) and math.isfinite(value) for value in row.values())
    assert "none/correct" not in row and "none/format_kept" in row


def test_the_table_says_what_there_is() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(scores_table(score_sets([*ONE_EACH, *SEVERAL, answer("none", "a", NAN)])))
    shown = {line.split()[0]: line for line in capture.get().splitlines() if line.strip()}
    low, high = wilson(1 / 3, 3)
    assert f"33.3 ({100 * low:.0f}–{100 * high:.0f})" in shown["id"]
    assert "41.7" in shown["ood"] and "pass@2" in shown["Set"] and "stuck" in shown["Set"]
    assert shown["none"].split()[2:5] == ["100.0", "(21–100)", "–"]


def test_a_benchmark_is_scored_by_task() -> None:
    def answer(task: str, number: int, correct: float) -> Answer:
        return Answer("b", f"{task}{number}", "", 1, True, 1.0, correct, correct, task=task)

    answers = [answer("a", 1, 1.0), answer("a", 2, 1.0), answer("a", 3, 1.0), answer("b", 1, 0.0)]
    scores = score([*answers, answer("b", 2, math.nan)])
    assert scores["tasks"] == {"a": 1.0, "b": 0.0}
    assert (scores["correct"], scores["macro_mean"]) == (0.75, 0.5)
    assert [Answer(**a.as_row()).task for a in answers] == ["a", "a", "a", "b"]
