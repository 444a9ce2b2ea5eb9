"""What the answers to evaluation sets say of a model: rates with their intervals, and how much it still explores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from rich import box
from rich.table import Table

from specs_lightning.evaluation.answer_metrics import powers_of_two
from specs_lightning.evaluation.paired_scores import PairedDifference
from specs_lightning.metrics import is_stuck, pass_at_k
from specs_lightning.metrics.bootstrap import mean_intervals, mean_of_strata
from specs_lightning.records.answers import MEASURES, Answer, by_prompt, grouped
from specs_lightning.statistics.intervals import clustered, mean_known
from specs_lightning.system.terminal import plain

NOTHING = "–"
PASS_AT = "pass_at_"
Scores = dict[str, Any]
"""As JSON has it: `n` prompts and the number of `answers`; `format_kept`, `correct` and `solved`; of a benchmark,
`tasks` by name and their `macro_mean`; how many answers are `cut_off` by the length limit, and how many `unscored`, by
cause; mean `tokens`; where there are several answers a prompt, `pass_at_k` by k and the `stuck_rate`; and, where they
were measured, `entropy` and `rollout_branching_factor`. `intervals` holds 95 % intervals by name (`pass_at_4` is one):
those of the three rates are Wilson's, the others by bootstrap over prompts. None stands for what is not known."""


def score_sets(answers: Iterable[Answer]) -> dict[str, Scores]:
    """The scores of each set, in the order in which the sets come."""
    return {name: score(mine) for name, mine in grouped(answers, lambda answer: answer.set).items()}


def score(answers: Sequence[Answer]) -> Scores:
    """The scores of one set."""
    groups = list(by_prompt(answers).values())
    rates: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float] | None] = {}
    for measure in MEASURES:
        found = clustered([[getattr(answer, measure) for answer in group] for group in groups])
        rates[measure], intervals[measure] = (found.value, found.interval) if found else (None, None)
    scores: Scores = {"n": len(groups), "answers": len(answers), **rates, "intervals": intervals}
    if tasks := _by_task(answers):
        scores["tasks"] = tasks
        scores["macro_mean"] = _mean(value for value in tasks.values() if value is not None)
        intervals["macro_mean"] = _macro_interval(groups)
    scores["cut_off"] = sum(not answer.finished for answer in answers)
    scores["unscored"] = unscored(answers)
    scores["tokens"] = _mean(answer.tokens for answer in answers if answer.tokens is not None)
    explored = _explored(groups)
    means = {name: _mean(values) for name, values in explored.items()}
    if several := [name for name in means if name.startswith(PASS_AT)]:
        scores["pass_at_k"] = {name.removeprefix(PASS_AT): means.pop(name) for name in several}
    if explored:
        values_PX = torch.tensor([*explored.values()], dtype=torch.float64).T
        for name, interval in zip(explored, mean_intervals(values_PX), strict=True):
            intervals[name] = None if math.isnan(interval.low) else interval
    return {name: value for name, value in (scores | means).items() if value is not None}


def _explored(groups: Sequence[Sequence[Answer]]) -> dict[str, list[float]]:
    """What tells how much a policy still explores, by name: the value of each prompt, NaN where it is not known.

    What was not measured at all is not among them.
    """
    explored: dict[str, list[float]] = {}
    most = max(map(len, groups))
    if most > 1:
        right = [[answer.correct for answer in group if not math.isnan(answer.correct)] for group in groups]
        answered_P, correct_P = torch.tensor([*map(len, right)]), torch.tensor([*map(sum, right)])
        for k in powers_of_two(most):
            explored[f"{PASS_AT}{k}"] = pass_at_k(answered_P, correct_P, k).tolist()
        explored["stuck_rate"] = [is_stuck([a.answer for a in group], [a.correct for a in group]) for group in groups]
    explored["entropy"] = [mean_known(answer.entropy for answer in group) for group in groups]
    explored["rollout_branching_factor"] = [mean_known(a.branching_factor for a in group) for group in groups]
    return {name: values for name, values in explored.items() if _mean(values) is not None}


def _by_task(answers: Sequence[Answer]) -> dict[str, float | None]:
    """The share of right answers in each task of a benchmark; nothing where there are no tasks."""
    tasks = grouped((answer for answer in answers if answer.task is not None), lambda answer: str(answer.task))
    return {task: _mean(answer.correct for answer in of_task) for task, of_task in sorted(tasks.items())}


def _macro_interval(groups: Sequence[Sequence[Answer]]) -> tuple[float, float] | None:
    means = [(group[0].task, mean) for group in groups if (mean := _mean(a.correct for a in group)) is not None]
    if not means:
        return None
    numbers = {task: number for number, task in enumerate({task: None for task, _ in means})}
    values_P, strata_P = torch.tensor([m for _, m in means]), torch.tensor([numbers[task] for task, _ in means])
    return tuple(mean_of_strata(values_P, strata_P)[1])  # type: ignore[return-value]  # two ends


def unscored(answers: Iterable[Answer]) -> dict[str, int]:
    """How many answers could not be judged, by the kind of cause, the most frequent first."""
    unknown = (answer for answer in answers if math.isnan(answer.correct))
    return dict(Counter((a.cause or "cause not recorded").partition(": ")[0] for a in unknown).most_common())


def logged(scores: Mapping[str, Scores]) -> dict[str, float]:
    """The scores as one flat row of numbers, the ends of intervals beside what they are of."""
    row: dict[str, float] = {}
    for name, of_set in scores.items():
        row |= {f"{name}/{measure}": value for measure, value in of_set.items() if isinstance(value, float)}
        row |= {f"{name}/pass_at_{k}": value for k, value in of_set.get("pass_at_k", {}).items() if value is not None}
        for measure, interval in of_set["intervals"].items():
            if interval is not None:
                row |= {f"{name}/{measure}_{end}": value for end, value in zip(("low", "high"), interval, strict=True)}
    return row


def scores_table(scores: Mapping[str, Scores]) -> Table:
    """A row a set."""
    rows = {name: _cells(of_set) for name, of_set in scores.items()}
    return _table(rows, "Rates in percent with 95 % intervals, of n prompts")


def differences_table(apart: Mapping[str, Mapping[str, PairedDifference]]) -> Table:
    """A row a set: how much higher each measure is than the base's."""
    rows = {
        name: {measure.replace("_", " "): _difference(one) for measure, one in of_set.items()}
        for name, of_set in apart.items()
    }
    return _table(rows, "Higher than the base's, in points with 95 % intervals, prompt by prompt")


def _table(rows: Mapping[str, Mapping[str, str]], caption: str) -> Table:
    titles = list(dict.fromkeys(title for cells in rows.values() for title in cells))
    table = Table(box=box.SIMPLE_HEAD, caption=caption)
    table.add_column("Set", overflow="fold")
    for title in titles:
        table.add_column(title, justify="right", overflow="fold")
    for name, cells in rows.items():
        table.add_row(plain(name), *(cells.get(title, NOTHING) for title in titles))
    return table


def _difference(one: PairedDifference) -> str:
    value, low, high = (f"{100 * number:+.1f}" for number in (one.value, *one.interval))
    return f"{value} ({low} to {high})"


def _cells(of_set: Scores) -> dict[str, str]:
    cells = {"n": str(of_set["n"])}
    missing = sum(of_set["unscored"].values())
    cells |= {measure.replace("_", " "): _with_interval(of_set, measure) for measure in MEASURES}
    if "macro_mean" in of_set:
        cells["macro mean"] = _with_interval(of_set, "macro_mean")
    cells |= {name: str(number) for name, number in (("cut off", of_set["cut_off"]), ("unscored", missing)) if number}
    cells |= {f"pass@{k}": _percent(value) for k, value in of_set.get("pass_at_k", {}).items()}
    if "stuck_rate" in of_set:
        cells["stuck"] = _percent(of_set["stuck_rate"])
    numbers = {"tokens": "tokens", "entropy": "entropy", "rollout_branching_factor": "branching"}
    return cells | {title: f"{of_set[name]:.3g}" for name, title in numbers.items() if name in of_set}


def _with_interval(of_set: Scores, measure: str) -> str:
    if (interval := of_set["intervals"][measure]) is None:
        return NOTHING
    low, high = interval
    return f"{_percent(of_set[measure])} ({100 * low:.0f}–{100 * high:.0f})"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _mean(values: Iterable[float]) -> float | None:
    mean = mean_known(values)
    return None if math.isnan(mean) else mean
