"""A run: its stages done, finished ones skipped and stopped ones continued, to a table and a report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from specs_lightning import __version__
from specs_lightning.commands.endings import scored_by
from specs_lightning.records.model_card import renew_card
from specs_lightning.records.record import DamagedRecord
from specs_lightning.records.results import RESULTS
from specs_lightning.records.run import RUN, RunRecord
from specs_lightning.report import show_results, write_report
from specs_lightning.rollout import make_engine
from specs_lightning.runs.jobs import Job, run_jobs
from specs_lightning.runs.measurement import EvaluationSettings, results_of
from specs_lightning.runs.planned_stages import (
    OUTPUTS,
    PlannedStage,
    Stage,
    as_argument,
    evaluation_of,
    first_stages,
    plan_stages,
    set_aside_old,
    with_template,
)
from specs_lightning.runs.servers import RunServers, ServerSettings, rollout_servers
from specs_lightning.runs.stages import distill_stage, evaluate_stage, fit_stage
from specs_lightning.settings.engines import EngineSettings, engine_class_path
from specs_lightning.settings.trackers import Tracker, TrackerSettings, trackers_in
from specs_lightning.system.files import checked_name
from specs_lightning.system.folder_lock import only_writer
from specs_lightning.system.terminal import say


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
    chat_template_kwargs: dict[str, Any] | None = None,
    servers: ServerSettings | None = None,
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
        engine: what samples, in every stage: `hf`, `vllm`, `servers`, or the class path of a rollout engine with its
            `init_args`; what each stage's own file says if not given.
        at_once: how many stages may go on beside each other where none takes from another, each on its share of the
            processor. Stages on one GPU would need its memory together.
        logger: what follows the trainings beside their `metrics.csv`, one or several of `mlflow`, `tensorboard`,
            `trackio` and `wandb`; each training is a run of its own there, all in one group.
        chat_template_kwargs: arguments of the models' chat template, as those of `model.policy`, in every stage.
        servers: vLLM servers that the run starts before the first stage that samples by `VLLMServers` without `urls`,
            and stops when it ends. `engine: servers` has all stages sample by them.

    Returns:
        the report's path.

    Raises:
        PipelineError: a finished stage's settings were changed since, or a reference leads nowhere.
    """
    folder = Path(run_dir or f"runs/{checked_name(name)}")
    stages = with_template(stages, chat_template_kwargs)
    trackers, model = trackers_in(logger), next((stage.model for stage in stages.values() if stage.model), None)
    with rollout_servers(servers, model) as own:
        planned = stages_of(stages, evaluation, name, folder, seed, until, redo, engine, trackers=trackers, servers=own)
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
    label: str = "",
    servers: RunServers | None = None,
) -> Iterator[tuple[dict[str, Job[None]], dict[str, set[str]]]]:
    """The stages of a run as jobs, two each, and which others each needs; once they are done, its results are written.

    The arguments are those of `run`. In a `store`, stages are kept under their fingerprints, for other runs to find
    them; `folder` has links to them. The `label` stands before the titles of its progress. The `servers` are there when
    a stage needs them.
    """
    if engine is not None:
        make_engine(engine)  # refused now rather than at its first stage
    plan = plan_stages(first_stages(stages, until), evaluation, folder, seed, engine, store)
    with only_writer(folder):
        set_aside_old(plan, redo or [])
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
            title = f"{label}[{number}/{len(plan)}] {planned.name}"
            jobs[planned.name] = _make(planned, title, seed, engine, tracked, servers)
            jobs[evaluation_of(planned.name)] = _evaluate(
                planned, title, evaluation, seed, engine, write_results, servers
            )
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


def _make(
    planned: PlannedStage,
    title: str,
    seed: int,
    engine: EngineSettings | None,
    tracked: Sequence[str],
    servers: RunServers | None,
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
    if servers is not None:
        place = "data.engine" if planned.stage.kind == "fit" else "engine"
        everywhere = {} if engine is None else {place: engine_class_path(engine)}
        servers.ready_for(planned.settings["file"], planned.stage.overrides, everywhere)
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
    servers: RunServers | None,
) -> Job[None]:
    """Evaluate a stage's model if it is to be, and `note` that the stage is finished."""
    record = planned.record()
    if record is None or planned.status == "finished":
        return
    start, cpu_seconds = time.monotonic(), 0.0
    if planned.stage.evaluate and planned.model is not None:
        data = evaluation.data if engine is None else {**evaluation.data, "engine": engine_class_path(engine)}
        own = _overrides(planned) if planned.stage.kind == "model" else []
        if servers is not None:
            servers.ready_for({"data": data}, planned.stage.overrides if own else {})
        cpu_seconds = yield from evaluate_stage(f"{title}: evaluation", planned.model, data, own, planned.folder, seed)
    seconds = (record.seconds or 0) + time.monotonic() - start
    planned.write("finished", seconds, (record.cpu_seconds or 0) + cpu_seconds)
    note()
    say(f"{title}: done in {seconds:.0f} s")


def _overrides(planned: PlannedStage) -> list[str]:
    return [f"--{key}={as_argument(value)}" for key, value in planned.stage.overrides.items()]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
