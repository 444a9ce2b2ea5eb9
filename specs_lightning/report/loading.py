"""Reads a run folder into small frozen dataclasses: all that the page shows, and no more.

Every piece but `run.json` may be missing, since a stage may not have run yet.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specs_lightning.errors import SpecsError
from specs_lightning.report.files import Series, as_text, finite, read_json, read_lines, read_metrics, spread

SAMPLES_PER_STAGE = 12
PAIRS_SHOWN = 12
MEASURES = ("format_kept", "correct", "solved")


Interval = tuple[float, float]


class NoRunError(SpecsError, FileNotFoundError):
    """The folder is not the folder of a run."""


@dataclass(frozen=True)
class SetScore:
    """How one model did on the `n` prompts of a set: the shares of MEASURES, and the mean length of an answer.

    `intervals` has those that were computed with the shares: of several answers a prompt, which are not independent.
    """

    n: int
    shares: dict[str, float | None]
    tokens: float | None
    intervals: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelScores:
    name: str
    sets: dict[str, SetScore]
    gain_id: float | None
    gain_ood: float | None
    generalization_factor: float | None
    intervals: dict[str, Interval] = field(default_factory=dict)
    """Of the gains and the factor, by their names above."""


@dataclass(frozen=True)
class Results:
    """The evaluation of every model so far, and how the Generalization Factor was computed."""

    measure: str
    beta: float
    gain: str
    id_sets: tuple[str, ...]
    ood_sets: tuple[str, ...]
    models: tuple[ModelScores, ...]

    @property
    def sets(self) -> tuple[str, ...]:
        return self.id_sets + self.ood_sets


@dataclass(frozen=True)
class SampledText:
    """A completion as it was sampled, with its rewards; None is a reward that could not be given.

    `logprob` is the sum over its tokens, by the policy that sampled it.
    """

    text: str
    finished: bool
    tokens: int | None
    logprob: float | None
    reward: float | None
    rewards: dict[str, float | None]


@dataclass(frozen=True)
class Sample:
    step: int | None
    prompt: str
    images: tuple[str, ...]
    answer: str
    answer_format: str
    completions: tuple[SampledText, ...]


@dataclass(frozen=True)
class Pair:
    prompt: str
    images: tuple[str, ...]
    answer: str
    chosen: str
    rejected: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class SetAsideRow:
    """A row that could not be used, as `specs_lightning.prompts.set_aside` writes it down."""

    source: str
    row: str | int
    reason: str


@dataclass(frozen=True)
class JudgeCost:
    """What a judge was asked in a stage, and what that cost, as `rewards.judge.record_usage` writes it down."""

    model: str
    counts: dict[str, float]


@dataclass(frozen=True)
class Stage:
    name: str
    kind: str
    status: str
    seconds: float | None
    fingerprint: str
    model: str
    settings: dict[str, Any]
    metrics: dict[str, Series] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    samples_in_file: int = 0
    pairs: tuple[Pair, ...] = ()
    statistics: dict[str, Any] = field(default_factory=dict)
    set_aside: tuple[SetAsideRow, ...] = ()
    judges: tuple[JudgeCost, ...] = ()

    @property
    def set_aside_counts(self) -> Counter[str]:
        """The number of rows by kind of reason: what stands before the colon."""
        return Counter(row.reason.partition(": ")[0] for row in self.set_aside)


@dataclass(frozen=True)
class Run:
    name: str
    config: str
    seed: int | None
    started: str
    finished: str
    seconds: float | None
    results: Results | None
    stages: tuple[Stage, ...]


def load_run(run_dir: Path) -> Run:
    """The run in a folder.

    Raises:
        NoRunError: the folder holds no `run.json`.
    """
    require_run(run_dir)
    run = read_json(run_dir / "run.json")
    return Run(
        name=run.get("name") or run_dir.name,
        config=run.get("config") or "",
        seed=run.get("seed"),
        started=run.get("started") or "",
        finished=run.get("finished") or "",
        seconds=finite(run.get("seconds")),
        results=load_results(run_dir),
        stages=tuple(_stage(run_dir / name) for name in run.get("stages", [])),
    )


def require_run(run_dir: Path) -> None:
    path = run_dir / "run.json"
    if not path.exists():
        raise NoRunError(
            f"{path} is missing, so {run_dir} is not the folder of a run: "
            "give the folder that `specs run` wrote (the one with run.json in it)"
        )


def load_results(run_dir: Path) -> Results | None:
    """The results of the models evaluated so far, None before the first.

    Raises:
        NoRunError: the folder holds no `run.json`.
    """
    require_run(run_dir)
    results = read_json(run_dir / "results.json")
    if not results:
        return None
    return Results(
        measure=results.get("measure", "solved"),
        beta=results.get("beta", 2.0),
        gain=results.get("gain", "difference"),
        id_sets=tuple(one["name"] for one in results.get("sets", []) if one["in_distribution"]),
        ood_sets=tuple(one["name"] for one in results.get("sets", []) if not one["in_distribution"]),
        models=tuple(_model(model) for model in results.get("models", [])),
    )


def _model(model: dict[str, Any]) -> ModelScores:
    return ModelScores(
        name=model["name"],
        sets={name: _set_score(scores) for name, scores in model.get("sets", {}).items()},
        gain_id=finite(model.get("gain_id")),
        gain_ood=finite(model.get("gain_ood")),
        generalization_factor=finite(model.get("generalization_factor")),
        intervals=_intervals(model),
    )


def _set_score(scores: dict[str, Any]) -> SetScore:
    shares = {measure: finite(scores.get(measure)) for measure in MEASURES}
    return SetScore(scores.get("n") or 0, shares, finite(scores.get("tokens")), _intervals(scores))


def _intervals(scores: dict[str, Any]) -> dict[str, Interval]:
    ends = {name: (finite(i[0]), finite(i[1])) for name, i in (scores.get("intervals") or {}).items() if i}
    return {name: (low, high) for name, (low, high) in ends.items() if low is not None and high is not None}


def _stage(folder: Path) -> Stage:
    stage = read_json(folder / "stage.json")
    samples = read_lines(folder / "samples.jsonl")
    pairs = read_lines(folder / "pairs_preview.jsonl")
    aside = [json.loads(line) for line in read_lines(folder / "set_aside.jsonl")]
    return Stage(
        name=folder.name,
        kind=stage.get("kind") or "",
        status=stage.get("status") or "not run",
        seconds=finite(stage.get("seconds")),
        fingerprint=stage.get("fingerprint") or "",
        model=stage.get("model") or "",
        settings=stage.get("settings") or {},
        metrics=read_metrics(folder / "metrics.csv"),
        samples=tuple(_sample(json.loads(line)) for line in spread(samples, SAMPLES_PER_STAGE)),
        samples_in_file=len(samples),
        pairs=tuple(_pair(json.loads(line)) for line in pairs[:PAIRS_SHOWN]),
        statistics=read_json(folder / "statistics.json"),
        set_aside=tuple(SetAsideRow(row.get("source", ""), row.get("row", ""), row.get("reason", "")) for row in aside),
        judges=_judges([json.loads(line) for line in read_lines(folder / "judge.jsonl")]),
    )


def _judges(rows: list[dict[str, Any]]) -> tuple[JudgeCost, ...]:
    """Summed by model: every process and every attempt at a stage has lines of its own."""
    by_model: dict[str, Counter[str]] = {}
    for row in rows:
        numbers = {name: value for name, value in row.items() if isinstance(value, int)}
        by_model.setdefault(as_text(row.get("model")), Counter()).update(numbers)
    return tuple(JudgeCost(model, dict(counts)) for model, counts in by_model.items())


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(
        step=row.get("step"),
        prompt=as_text(row.get("prompt")),
        images=tuple(row.get("images") or ()),
        answer=as_text(row.get("answer")),
        answer_format=as_text(row.get("answer_format")),
        completions=tuple(_sampled_text(completion) for completion in row.get("completions") or ()),
    )


def _sampled_text(completion: dict[str, Any]) -> SampledText:
    return SampledText(
        text=as_text(completion.get("text")),
        # Absent is taken as finished: "cut off" is a claim that the file must make itself.
        finished=completion.get("finished") is not False,
        tokens=completion.get("tokens"),
        logprob=finite(completion.get("logprob")),
        reward=finite(completion.get("reward")),
        rewards={name: finite(value) for name, value in (completion.get("rewards") or {}).items()},
    )


def _pair(row: dict[str, Any]) -> Pair:
    return Pair(
        prompt=as_text(row.get("prompt")),
        images=tuple(row.get("images") or ()),
        answer=as_text(row.get("answer")),
        chosen=as_text(row.get("chosen")),
        rejected=as_text(row.get("rejected")),
        provenance=row.get("provenance") or {},
    )
