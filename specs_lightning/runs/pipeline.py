"""A run: stages in order, each in a folder of its own, skipped when finished and continued when stopped.

A stage names what it takes from others as `${zero.model}` or `${distill.pairs}`. It is finished when its `stage.json`
says so. Its fingerprint covers its settings, its configuration file and the stages that it takes from: when any of
these is changed afterwards, the run stops and says what differs. Where only the evaluation is changed, models are
evaluated again, and nothing is trained again. Several runs may keep their stages in one store, each
under its fingerprint: what they have in common is done once.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from specs_lightning import __version__
from specs_lightning.commands.endings import scored_by
from specs_lightning.errors import SpecsError
from specs_lightning.records.answers import FILE as ANSWERS
from specs_lightning.records.answers import Answer, read_answers, seal_answers
from specs_lightning.records.model_card import renew_card
from specs_lightning.records.record import DamagedRecord
from specs_lightning.records.results import RESULTS
from specs_lightning.records.run import RUN, STAGE, RunRecord, StageRecord
from specs_lightning.report import show_results, write_report
from specs_lightning.rollout import make_engine
from specs_lightning.runs.jobs import Job, run_jobs
from specs_lightning.runs.measurement import EvaluationSettings, results_of
from specs_lightning.runs.stages import distill_stage, evaluate_stage, fit_stage
from specs_lightning.settings.engines import EngineSettings, engine_class_path
from specs_lightning.settings.trackers import Tracker, TrackerSettings, trackers_in
from specs_lightning.settings.yaml_files import differences, locate, read_settings
from specs_lightning.system.digests import fingerprint
from specs_lightning.system.files import checked_name, keep_beside
from specs_lightning.system.folder_lock import only_writer
from specs_lightning.system.terminal import pasted, say

OUTPUTS = {"model": "model", "pairs": "pairs.parquet", "candidates": ".", "answers": ANSWERS}
"""What a stage hands on, by the name it is asked for with."""
_REFERENCE = re.compile(r"\$\{(\w+)\.(\w+)\}")


class PipelineError(SpecsError, RuntimeError):
    """A run that cannot go on; the message says why, and what to do."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run."""

    kind: Literal["model", "fit", "distill"]
    """`model`: a model as it is, to be evaluated. `fit`: `specs fit`. `distill`: `specs distill`."""
    config: str | None = None
    """The configuration file of a `fit` or `distill` stage."""
    model: str | None = None
    """The model of a `model` stage."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Dotted settings on top of the file; values may hold references such as `${zero.model}`. Of a `model` stage
    they are those of its evaluation, a `specs test`."""
    evaluate: bool = True
    """Evaluate the stage's model, for the table."""

    def __post_init__(self) -> None:
        given = self.model if self.kind == "model" else self.config
        if given is None:
            raise ValueError(f"a stage of kind {self.kind} needs {'a model' if self.kind == 'model' else 'a config'}")


def run(
    stages: dict[str, Stage],
    evaluation: EvaluationSettings,
    name: str = "specs",
    run_dir: str | None = None,
    seed: int = 0,
    until: str | None = None,
    redo: list[str] | None = None,
    engine: EngineSettings | None = None,
    at_once: int = 1,
    logger: TrackerSettings = None,
) -> Path:
    """Run the whole method, stage by stage, to a table and a report.

    Args:
        stages: what is done, in order; the first is the base that all others are compared with.
        evaluation: how every model is measured.
        name: of the run.
        run_dir: where it is written; `runs/NAME` if not given.
        seed: of everything in it.
        until: the last stage to do, for now; all of them if not given.
        redo: stages to do again, with all that depend on them. What they wrote is kept beside.
        engine: what samples, in every stage: `hf`, `vllm`, or the class path of a rollout engine with its `init_args`;
            what each stage's own file says if not given.
        at_once: how many stages may go on beside each other where none takes from another, each on its share of the
            processor. Stages on one GPU would need its memory together.
        logger: what follows the trainings beside their `metrics.csv`, one or several of `mlflow`, `tensorboard`,
            `trackio` and `wandb`; each training is a run of its own there, all in one group.

    Returns:
        the report's path.

    Raises:
        PipelineError: a finished stage's settings were changed since, or a reference leads nowhere.
    """
    folder = Path(run_dir or f"runs/{checked_name(name)}")
    planned = stages_of(stages, evaluation, name, folder, seed, until, redo, engine, trackers=trackers_in(logger))
    with planned as (jobs, needs):
        run_jobs(jobs, needs, at_once)
    report = write_report(folder)
    show_results(folder)
    say(f"report: {report} (open it in a browser)")
    say(what_is_next(folder, first_stages(stages, until), until))
    return report


def what_is_next(folder: Path, stages: dict[str, Stage], until: str | None) -> str:
    """After a whole run, the command that scores its last model; after a part of one, how it goes on."""
    if until is not None:
        return f"done until {until}: the same command without --until goes on from there"
    trained = [name for name, stage in stages.items() if stage.kind == "fit"]
    return scored_by(folder / trained[-1] / OUTPUTS["model"]) if trained else "no stage trains: there is no model"


@contextmanager
def stages_of(
    stages: dict[str, Stage],
    evaluation: EvaluationSettings,
    name: str,
    folder: Path,
    seed: int,
    until: str | None = None,
    redo: list[str] | None = None,
    engine: EngineSettings | None = None,
    store: Path | None = None,
    trackers: Sequence[Tracker] = (),
) -> Iterator[tuple[dict[str, Job[None]], dict[str, set[str]]]]:
    """The stages of a run as jobs, two each, and which others each needs; once they are done, its results are written.

    The arguments are those of `run`. In a `store`, stages are kept under their fingerprints, for other runs to find
    them; `folder` has links to them.
    """
    if engine is not None:
        make_engine(engine)  # refused now rather than at its first stage
    plan = plan_stages(first_stages(stages, until), evaluation, folder, seed, engine, store)
    with only_writer(folder):
        _set_aside_old(plan, redo or [])
        for planned in plan if store is not None else ():
            link = folder / planned.name
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(planned.folder.absolute(), folder.absolute()), target_is_directory=True)
        before = _record_before(folder)
        record = RunRecord(name, seed, __version__, tuple(planned.name for planned in plan), before.started or _now())
        RUN.write(folder, record)
        write_results = partial(_write_results, folder, plan, evaluation)
        write_results()
        left = any(planned.status != "finished" for planned in plan)
        tracked = [f"--logger={as_argument(list(trackers))}", f"--run_dir={folder}"] if trackers else []
        jobs: dict[str, Job[None]] = {}
        for number, planned in enumerate(plan, 1):
            title = f"[{number}/{len(plan)}] {planned.name}"
            jobs[planned.name] = _make(planned, title, seed, engine, tracked)
            jobs[evaluation_of(planned.name)] = _evaluate(planned, title, evaluation, seed, engine, write_results)
        yield jobs, {name: needed for planned in plan for name, needed in planned.needs.items()}
        for planned in plan:
            renew_card(planned.folder, folder)
        RUN.write(
            folder, replace(record, finished=_now() if left else before.finished or _now(), seconds=_seconds(plan))
        )


def _record_before(folder: Path) -> RunRecord:
    """That of an earlier start; one that says nothing where there was none, or its file is damaged."""
    with suppress(DamagedRecord):  # it is written anew
        return RUN.read(folder) or RunRecord("")
    return RunRecord("")


def _write_results(folder: Path, plan: Sequence[PlannedStage], evaluation: EvaluationSettings) -> None:
    """Those of the stages that are finished, so that a run can be looked at before its end: once the first model is,
    which all others are compared with."""
    base = next((planned for planned in plan if planned.evaluation is not None), None)
    finished = [planned for planned in plan if planned.status == "finished"]
    answers = {planned.name: planned.answers() for planned in finished if base in finished}
    RESULTS.write(folder, results_of(answers, evaluation))


def _seconds(plan: Sequence[PlannedStage]) -> float:
    """What the attempts took that finished its stages."""
    return round(sum(record.seconds or 0.0 for planned in plan if (record := planned.record())), 1)


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its references resolved, and what its result depends on."""

    name: str
    stage: Stage
    folder: Path
    settings: dict[str, Any]
    """Everything that what it makes depends on: overrides, the file's content, upstream fingerprints."""
    upstream: tuple[str, ...]
    evaluation: dict[str, Any] | None
    """What its evaluation depends on besides; None where it has none."""
    as_before: dict[str, Any]
    """Its settings as the first versions of the package have them, which did not keep the evaluation apart."""

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.settings)

    @property
    def model(self) -> str | None:
        if self.stage.kind == "distill":
            return None
        return self.stage.model if self.stage.kind == "model" else str(self.folder / OUTPUTS["model"])

    def record(self) -> StageRecord | None:
        """How far it is; None before it was begun."""
        return STAGE.read(self.folder)

    def is_of(self, record: StageRecord) -> bool:
        """Whether what is recorded was made as it would be now."""
        return record.fingerprint in (self.fingerprint, fingerprint(self.as_before))

    def evaluated(self, record: StageRecord) -> bool:
        """Whether what is recorded was measured as it would be now, or is not to be."""
        by = record.settings.get("evaluation") if record.evaluation is None else record.evaluation
        return self.evaluation is None or not differences(by or {}, self.evaluation)

    @property
    def needs(self) -> dict[str, set[str]]:
        """The jobs that must be done before each of its own."""
        references = _REFERENCE.findall(json.dumps(self.settings["overrides"], ensure_ascii=False))
        needed = {evaluation_of(other) if output == "answers" else other for other, output in references}
        return {self.name: needed, evaluation_of(self.name): {self.name}}

    @property
    def status(self) -> str | None:
        """That of its record, finished only if it was measured as it would be now; None before there is one."""
        record = self.record()
        if record is None or record.status != "finished" or self.evaluated(record):
            return None if record is None else record.status
        return "trained" if self.stage.kind == "fit" else "running"

    def write(
        self, status: str, seconds: float | None = None, cpu_seconds: float | None = None, begins: bool = False
    ) -> None:
        """Note how far the stage is. The seconds are those of the attempt that finished it; `attempts` counts all."""
        before = self.record()
        record = StageRecord(
            stage=self.name,
            kind="evaluate" if self.stage.kind == "model" else self.stage.kind,
            status=status,
            seconds=None if seconds is None else round(seconds, 1),
            cpu_seconds=None if cpu_seconds is None else round(cpu_seconds, 1),
            attempts=(before.attempts if before else 0) + begins,
            fingerprint=self.fingerprint,
            settings=self.settings,
            evaluation=self.evaluation,
            model=self.model,
            answers=seal_answers(self.folder) if status == "finished" else None,
        )
        STAGE.write(self.folder, record)

    def answers(self) -> list[Answer] | None:
        """Those of its finished evaluation; None where it has none, or is to have none.

        Raises:
            DamagedRecord: they are not all there.
        """
        if self.evaluation is None:
            return None
        record, file = self.record(), self.folder / OUTPUTS["answers"]
        evaluated = file.exists() or (record is not None and record.answers is not None)
        return read_answers(file) if evaluated else None


def first_stages(stages: dict[str, Stage], until: str | None) -> dict[str, Stage]:
    """The stages to the one of this name; all of them without a name."""
    if until is None:
        return stages
    if until not in stages:
        raise PipelineError(f"no stage {until} to stop after; there are: {', '.join(stages)}")
    names = list(stages)
    return {name: stages[name] for name in names[: names.index(until) + 1]}


def plan_stages(
    stages: dict[str, Stage],
    evaluation: EvaluationSettings,
    folder: Path,
    seed: int,
    engine: EngineSettings | None,
    store: Path | None = None,
) -> list[PlannedStage]:
    """The stages of a run in its folder, in order.

    Raises:
        PipelineError: a configuration file does not exist, or a reference leads nowhere.
        SettingsError: a stage's name cannot be that of its folder.
    """
    plan: dict[str, PlannedStage] = {}
    for name, stage in stages.items():
        checked_name(name)
        config = str(locate(stage.config)) if stage.config else None
        if config and not Path(config).is_file():
            raise PipelineError(
                f"no such configuration file: {stage.config} (paths are relative to the working directory)"
            )
        text = json.dumps(stage.overrides, ensure_ascii=False)
        overrides = json.loads(_REFERENCE.sub(partial(_output, name, plan), text))
        upstream = tuple(dict.fromkeys(match[0] for match in _REFERENCE.findall(text)))
        settings: dict[str, Any] = {
            "kind": stage.kind,
            "model": stage.model,
            "overrides": stage.overrides,  # references as such: a run may be moved
            "file": read_settings(config) if config else None,
            "seed": seed,
            "upstream": {other: plan[other].fingerprint for other in upstream},
        }
        if engine is not None:
            settings["engine"] = engine_class_path(engine)
        measured = evaluation.decisive if stage.evaluate and stage.kind != "distill" else None
        as_before = {**settings, "upstream": {other: fingerprint(plan[other].as_before) for other in upstream}}
        as_before |= {} if measured is None else {"evaluation": measured}
        resolved = Stage(stage.kind, config, stage.model, overrides, stage.evaluate)
        place = folder / name if store is None else _in_store(store, name, settings, as_before)
        plan[name] = PlannedStage(name, resolved, place, settings, upstream, measured, as_before)
    return list(plan.values())


def _in_store(store: Path, name: str, settings: dict[str, Any], as_before: dict[str, Any]) -> Path:
    """A stage's folder in a store; where an earlier version of the package has made it, that one."""
    place, before = (store / f"{name}-{fingerprint(found)}" for found in (settings, as_before))
    return before if before.exists() and not place.exists() else place


def _output(name: str, done: dict[str, PlannedStage], reference: re.Match[str]) -> str:
    """What a stage of this name refers to, as it stands within a string of JSON."""
    stage, output = reference.groups()
    if stage not in done or output not in OUTPUTS:
        raise PipelineError(
            f"stage {name} asks for {reference[0]}: the stages before it are {', '.join(done) or 'none'}, "
            f"and what can be asked of them is {', '.join(OUTPUTS)}"
        )
    source = done[stage]
    return json.dumps(str(source.model if output == "model" else source.folder / OUTPUTS[output]))[1:-1]


def _set_aside_old(plan: list[PlannedStage], redo: list[str]) -> None:
    """Move what is to be done again out of the way, and refuse to mix old results with new settings."""
    if unknown := set(redo) - {planned.name for planned in plan}:
        raise PipelineError(f"redo names unknown stages: {', '.join(sorted(unknown))}")
    again: set[str] = set(redo)
    to_move: list[PlannedStage] = []
    for planned in plan:
        if again & set(planned.upstream):
            again.add(planned.name)
        if planned.name in again:
            if (planned.folder / STAGE.name).exists():  # it may be damaged: that is then why
                to_move.append(planned)
            continue
        record = planned.record()
        if record is not None and not planned.is_of(record):
            now = planned.as_before if "evaluation" in record.settings else planned.settings
            state = "finished" if record.status == "finished" else "begun"
            raise PipelineError(
                f"stage {planned.name} was {state} with other settings:\n"
                + "\n".join(differences(record.settings, now))
                + f"\ngive {pasted('--redo', f'[{planned.name}]')} to do it and what depends on it again, or another "
                "--run_dir"
            )
    for planned in to_move:  # once nothing is refused any more
        keep_beside(planned.folder)


def evaluation_of(stage: str) -> str:
    """The name of the job that evaluates a stage's model."""
    return f"{stage}: evaluation"


def _make(
    planned: PlannedStage, title: str, seed: int, engine: EngineSettings | None, tracked: Sequence[str]
) -> Job[None]:
    """Do what is left to do of a stage but its evaluation."""
    status = planned.status
    if status == "finished":
        say(f"{title}: finished before")
        return
    planned.write(status or "running", begins=True)
    if status == "trained" or planned.stage.kind == "model":
        return
    start = time.monotonic()
    overrides = _overrides(planned)
    chosen = [] if engine is None else [f"engine={as_argument(engine_class_path(engine))}"]
    if planned.stage.kind == "fit":
        own = [f"--seed_everything={seed}", f"--data.seed={seed}", *(f"--data.{setting}" for setting in chosen)]
        args = [*overrides, *own, *tracked]
        cpu_seconds = yield from fit_stage(title, str(planned.stage.config), args, planned.folder)
    else:
        own = [f"--seed={seed}", *(f"--{setting}" for setting in chosen)]
        cpu_seconds = yield from distill_stage(title, str(planned.stage.config), [*overrides, *own], planned.folder)
    planned.write("trained", time.monotonic() - start, cpu_seconds)


def _evaluate(
    planned: PlannedStage,
    title: str,
    evaluation: EvaluationSettings,
    seed: int,
    engine: EngineSettings | None,
    note: Callable[[], None],
) -> Job[None]:
    """Evaluate a stage's model if it is to be, and `note` that the stage is finished."""
    record = planned.record()
    if record is None or planned.status == "finished":
        return
    start, cpu_seconds = time.monotonic(), 0.0
    if planned.stage.evaluate and planned.model is not None:
        data = evaluation.data if engine is None else {**evaluation.data, "engine": engine_class_path(engine)}
        own = _overrides(planned) if planned.stage.kind == "model" else []
        cpu_seconds = yield from evaluate_stage(f"{title}: evaluation", planned.model, data, own, planned.folder, seed)
    seconds = (record.seconds or 0) + time.monotonic() - start
    planned.write("finished", seconds, (record.cpu_seconds or 0) + cpu_seconds)
    note()
    say(f"{title}: done in {seconds:.0f} s")


def _overrides(planned: PlannedStage) -> list[str]:
    return [f"--{key}={as_argument(value)}" for key, value in planned.stage.overrides.items()]


def as_argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
