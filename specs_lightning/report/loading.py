"""All that the page of a run shows, read from its folder. A stage may not have run yet, and then has nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from specs_lightning.records.distillation import PAIRS_PREVIEW, STATISTICS, PairPreview
from specs_lightning.records.judge_usage import JUDGE, JudgeUsage, summed_by_model
from specs_lightning.records.lines import Line
from specs_lightning.records.metrics import Series, read_metrics
from specs_lightning.records.progress import PROGRESS
from specs_lightning.records.results import Results, read_results
from specs_lightning.records.run import STAGE, RunRecord, StageRecord, read_run
from specs_lightning.records.samples import ANSWER_SAMPLES, SAMPLES, Sample
from specs_lightning.records.set_aside import SET_ASIDE, SetAsideRow
from specs_lightning.system.progress import ProgressRecord

SAMPLES_PER_STAGE = 12
PAIRS_SHOWN = 12
NOT_RUN = StageRecord(status="not run", fingerprint="", settings={})
T = TypeVar("T")


@dataclass(frozen=True)
class StageFiles:
    """What a stage's folder holds; samples and pairs are a choice."""

    name: str
    record: StageRecord
    metrics: dict[str, Series] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    """Of the training."""
    answer_samples: Sequence[Sample] = ()
    """Of the evaluation, in and out of distribution."""
    pairs: Sequence[PairPreview] = ()
    statistics: dict[str, Any] = field(default_factory=dict)
    set_aside: Sequence[SetAsideRow] = ()
    judges: Sequence[JudgeUsage] = ()
    progress: ProgressRecord | None = None

    @property
    def has_samples(self) -> bool:
        return bool(self.samples or self.answer_samples)

    @property
    def set_aside_counts(self) -> Counter[str]:
        """The number of rows by kind of reason."""
        return Counter(row.kind for row in self.set_aside)


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder holds."""

    record: RunRecord
    results: Results | None
    stages: tuple[StageFiles, ...]


def load_run(folder: Path) -> RunFiles:
    """The run in a folder.

    Raises:
        NoRunError: the folder holds no `run.json`.
        DamagedRecord: a file is not as it was written.
    """
    run = read_run(folder)
    return RunFiles(run, read_results(folder), tuple(_stage(folder / name) for name in run.stages))


def read_stage(folder: Path) -> StageRecord:
    """The record of a stage, which may not have been begun."""
    return STAGE.read(folder) or NOT_RUN


def spread(items: Sequence[T], limit: int) -> Sequence[T]:
    """At most `limit` items, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return items
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def _stage(folder: Path) -> StageFiles:
    def some(lines: list[Line]) -> Sequence[Line]:
        return spread(lines, SAMPLES_PER_STAGE)

    return StageFiles(
        name=folder.name,
        record=read_stage(folder),
        metrics=read_metrics(folder),
        samples=SAMPLES.read(folder, some),
        answer_samples=ANSWER_SAMPLES.read(folder, some),
        pairs=PAIRS_PREVIEW.read(folder, lambda lines: lines[:PAIRS_SHOWN]),
        statistics=STATISTICS.read(folder) or {},
        set_aside=SET_ASIDE.read(folder),
        judges=summed_by_model(JUDGE.read(folder)),
        progress=PROGRESS.read(folder),
    )
