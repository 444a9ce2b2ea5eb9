"""What is to be done of a run: its stages in order, each in a folder of its own.

A stage names what it takes from others as `${zero.model}` or `${distill.pairs}`. It is finished when its `stage.json`
says so. Its fingerprint covers its settings, its configuration file and the stages that it takes from: when any of
these is changed afterwards, the run stops and says what differs. Where only the evaluation is changed, models are
evaluated again, and nothing is trained again. Several runs may keep their stages in one store, each
under its fingerprint: what they have in common is done once.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from specs_lightning import __version__
from specs_lightning.errors import SpecsError
from specs_lightning.records.answers import FILE as ANSWERS
from specs_lightning.records.answers import Answer, read_answers, seal_answers
from specs_lightning.records.run import STAGE, StageRecord
from specs_lightning.runs.measurement import EvaluationSettings
from specs_lightning.settings.engines import EngineSettings, engine_class_path
from specs_lightning.settings.yaml_files import differences, locate, read_settings
from specs_lightning.system.digests import fingerprint
from specs_lightning.system.files import checked_name, keep_beside
from specs_lightning.system.terminal import pasted

OUTPUTS = {"model": "model", "pairs": "pairs.parquet", "candidates": ".", "answers": ANSWERS}
"""What a stage hands on, by the name it is asked for with."""
TEMPLATE = "model.policy.chat_template_kwargs"
"""Where a stage that is no `distill` has the arguments of its chat template."""
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
            version=__version__,
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


def with_template(stages: dict[str, Stage], chat_template_kwargs: dict[str, Any] | None) -> dict[str, Stage]:
    """The stages, each with these arguments of the chat template; those of a stage's own overrides win."""

    def told(stage: Stage) -> Stage:
        name = "chat_template_kwargs" if stage.kind == "distill" else TEMPLATE
        return replace(stage, overrides={name: chat_template_kwargs, **stage.overrides})

    return {name: told(stage) for name, stage in stages.items()} if chat_template_kwargs else stages


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


def set_aside_old(plan: list[PlannedStage], redo: list[str]) -> None:
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


def as_argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
