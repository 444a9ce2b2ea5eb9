"""From configuration files to jobs: one for `specs fit` and `specs distill`, one for each stage of `specs run`.

Classes are made as a run would make them, the Trainer and the models left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from specs_lightning.commands.fit import SpecsCLI
from specs_lightning.data import PreferenceDataModule, RolloutDataModule
from specs_lightning.data.pairs import load_pairs
from specs_lightning.data.sources import PromptSource
from specs_lightning.distill.pairs import distill
from specs_lightning.distill.waves import PROMPTS_AT_ONCE as CANDIDATES_AT_ONCE
from specs_lightning.distill.waves import wave_size
from specs_lightning.errors import SpecsError, refused_settings
from specs_lightning.evaluation.sets import PROMPTS_AT_ONCE
from specs_lightning.modules import PolicyModule
from specs_lightning.modules.step_loop import default_tokens_per_micro_batch, total_steps
from specs_lightning.plan.job import Devices, Job, Sampling, Training
from specs_lightning.plan.lengths import Groups, made_up_prompts, read_prompts, some
from specs_lightning.plan.memory import GIB, optimizer_bytes
from specs_lightning.plan.settings import PlanSettings
from specs_lightning.plan.shapes import model_shape
from specs_lightning.plan.trace import Computing
from specs_lightning.policy.loading import PolicySettings, check_trainable
from specs_lightning.policy.model_files import model_source
from specs_lightning.policy.processors import load_processor
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.rollout import HFEngine, RolloutEngine, SamplingSettings, engine_class_path, make_engine
from specs_lightning.runs.measurement import EvaluationSettings
from specs_lightning.runs.pipeline import run
from specs_lightning.runs.planned_stages import PlannedStage, as_argument, first_stages, plan_stages
from specs_lightning.settings.functions import function_settings
from specs_lightning.settings.yaml_files import config_files, kind_of, read_settings
from specs_lightning.strategies import FSDP2

_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class PlannedWork:
    """A stage: what it needs memory for, and what it will get through."""

    name: str
    job: Job
    work: dict[str, int]
    """Numbers of tokens, completions, steps and rounds, by what they are."""
    notes: tuple[str, ...] = ()
    """What was assumed."""


class PlanCLI(SpecsCLI):
    """Makes the module and the data module of a `specs fit` configuration, and no Trainer."""

    program = "specs plan"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(PlanSettings)

    def instantiate_classes(self) -> None:
        config = self.config.clone()
        for name in ("callbacks", "logger", "strategy", "plugins", "profiler"):
            config.trainer[name] = None
        with refused_settings():
            made = self.parser.instantiate_classes(config)
        self.model, self.datamodule = made.model, made.data


def read(args: Sequence[str]) -> Iterator[PlannedWork]:
    """The stages of the configuration that the arguments name, one at a time.

    Raises:
        SpecsError: something cannot be known from the configuration; the message says which setting tells it.
    """
    files = config_files(args)
    name, kind = ", ".join(files) or "plan", kind_of(key for file in files for key in read_settings(file))
    if kind in ("fit", None):
        cli = PlanCLI.launch(args, run=False)
        yield _Planner.of(cli.config).fit(name, cli)
        return
    function = distill if kind == "distill" else run
    given = function_settings(function, args, PlanSettings)
    planner = _Planner.of(given)
    if kind == "distill":
        yield planner.distill(name, given)
    else:
        yield from planner.run(given)


@dataclass
class _Planner:
    """Plans stages, and knows what those before will have written: their models' shapes, and their pairs, by path."""

    settings: PlanSettings
    on_gpu: bool = True
    """Where stages run that have no Trainer to say it."""
    shapes: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, Groups] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Any) -> _Planner:
        return cls(PlanSettings(**{f.name: given[f.name] for f in fields(PlanSettings)}))

    def run(self, given: dict[str, Any]) -> Iterator[PlannedWork]:
        folder = Path(given["run_dir"] or f"runs/{given['name']}")
        chosen = first_stages(given["stages"], given["until"])
        stages = plan_stages(chosen, given["evaluation"], folder, given["seed"], given["engine"])
        engine = None if given["engine"] is None else as_argument(engine_class_path(given["engine"]))
        fits = {
            planned.name: PlanCLI.launch(_arguments(planned, engine and f"--data.engine={engine}"), run=False)
            for planned in stages
            if planned.stage.kind == "fit"
        }
        self.on_gpu = not fits or any(cli.config.trainer.accelerator != "cpu" for cli in fits.values())
        for planned in stages:
            if planned.stage.kind == "fit":
                cli = fits[planned.name]
                self.shapes[str(planned.model)] = self._source(cli.model.policy_settings.pinned)
                yield self.fit(planned.name, cli)
            elif planned.stage.kind == "distill":
                arguments = [*_arguments(planned, engine and f"--engine={engine}"), f"--output={planned.folder}"]
                yield self.distill(planned.name, function_settings(distill, arguments))
            elif planned.stage.evaluate:
                sampler = make_engine(given["engine"] or "hf")
                yield self.evaluation(planned, given["evaluation"], sampler)

    def fit(self, name: str, cli: PlanCLI) -> PlannedWork:
        module, data, trainer = cli.model, cli.datamodule, cli.config.trainer
        policy: PolicySettings = module.policy_settings
        check_trainable(policy)
        source = self._source(policy.pinned)
        devices = self._devices(trainer, policy)
        sampling = None
        if isinstance(data, RolloutDataModule):
            groups, work, notes = self._rollouts(data, trainer, source)
            at_once = -(-data.prompts_per_round // devices.ranks)
            sampling = Sampling(data.engine, data.sampling, at_once, groups.longest)
            per_step = data.prompts_per_step
        elif isinstance(data, PreferenceDataModule):
            groups, work, notes = self._pairs(data, module, trainer, source)
            per_step = data.batch_size
        else:
            raise SpecsError(f"specs plan knows RolloutDataModule and PreferenceDataModule, not {type(data).__name__}")
        training = Training(
            groups,
            per_step,
            module.max_tokens_per_micro_batch or default_tokens_per_micro_batch("cuda" if devices.on_gpu else "cpu"),
            module.whole_groups,
            optimizer_bytes(module.optimizer_callable),
            module.keeps_second_model,
        )
        job = Job(model_shape(source), policy, devices, training, sampling)
        work["micro-batches a step and process"] = len(job.micro_batches()[0])
        if note := data.idle_note(devices.ranks):
            notes.append(note)
        if groups.images is None and not policy.freeze_vision:
            notes.append("no image of the data is at hand: the vision tower's activations are not counted")
        return PlannedWork(name, job, work, tuple(notes))

    def distill(self, name: str, given: dict[str, Any]) -> PlannedWork:
        sampling: SamplingSettings = given["sampling"]
        source = self._source(given["base"])
        prompts = self._prompts(given["prompts"], source)
        k, tokens = sampling.completions_per_prompt, self.settings.completion_tokens or sampling.max_tokens
        wanted = given["pairs"].max_pairs
        pairs = min(prompts.rows, wanted or prompts.rows)
        asked_for = min(prompts.rows, wave_size(wanted, 0, 0)) if wanted else prompts.rows
        notes = ("prompts that give no pair are made up for by others: how many depends on the models",)
        self.pairs[str(Path(given["output"]) / "pairs.parquet")] = replace(prompts, rows=pairs).answered(tokens, 2)
        work = {
            "prompts": asked_for,
            "completions (of two models)": 2 * asked_for * k,
            "tokens sampled": 2 * asked_for * k * tokens,
            "pairs, at most": pairs,
        }
        longest = prompts.answered(tokens, k).longest
        asked = Sampling(given["engine"] or HFEngine(), sampling, CANDIDATES_AT_ONCE, longest)
        job = self._sampling_job(given["base"], source, asked)
        return PlannedWork(name, job, work, notes if asked_for < prompts.rows else ())

    def evaluation(self, planned: PlannedStage, evaluation: EvaluationSettings, engine: RolloutEngine) -> PlannedWork:
        """Of the base; a run evaluates its later models in the same way."""
        source, sampling = self._source(str(planned.model)), evaluation.sampling
        k, tokens = sampling.completions_per_prompt, self.settings.completion_tokens or sampling.max_tokens
        sets = [self._prompts(prompts, source).answered(tokens, k) for prompts in evaluation.sets.values()]
        prompts = sum(found.rows for found in sets)
        work = {"prompts": prompts, "completions": prompts * k, "tokens sampled": prompts * k * tokens}
        asked = Sampling(engine, sampling, PROMPTS_AT_ONCE, max(found.longest for found in sets))
        job = self._sampling_job(str(planned.model), source, asked)
        return PlannedWork(f"{planned.name}: evaluation", job, work, ("each evaluated model takes as much",))

    def _sampling_job(self, model: str, source: str, sampling: Sampling) -> Job:
        """As these stages load a model: on one device."""
        devices = self._device(Computing(self.on_gpu))
        return Job(model_shape(source), PolicySettings(model=model), devices, sampling=sampling)

    def _source(self, model: str) -> str:
        """Where a model's shape is found."""
        return self.settings.shape or self.shapes.get(model, model)

    def _rollouts(
        self, data: RolloutDataModule, trainer: Namespace, source: str
    ) -> tuple[Groups, dict[str, int], list[str]]:
        tokens, k = self.settings.completion_tokens or data.sampling.max_tokens, data.sampling.completions_per_prompt
        groups = self._prompts(data.train, source, data.max_prompt_tokens).answered(tokens, k)
        steps = total_steps(data.steps_of(groups.rows), trainer.max_epochs, trainer.max_steps)
        rounds = -(-steps // data.steps_per_round)
        asked = rounds * data.prompts_per_round
        work = {
            "rounds": rounds,
            "optimizer steps": steps,
            "prompts": asked,
            "completions": asked * k,
            "tokens sampled": asked * k * tokens,
            "tokens trained on": round(steps * data.prompts_per_step * groups.tokens),
        }
        notes = []
        if self.settings.completion_tokens is None:
            longest = f"at their longest (sampling.max_tokens, {tokens})"
            notes.append(f"completions are counted {longest}: --completion_tokens says what is usual")
        if data.dynamic_sampling is not None:
            notes.append("dynamic sampling draws further completions: how many depends on the policy")
        return groups, work, notes

    def _pairs(
        self, data: PreferenceDataModule, module: PolicyModule, trainer: Namespace, source: str
    ) -> tuple[Groups, dict[str, int], list[str]]:
        sides, settings, notes = module.completions_per_pair, self.settings, []
        if data.train in self.pairs:
            groups = self.pairs[data.train]
            groups = replace(groups, completions=tuple(group[:sides] for group in groups.completions))
            notes.append("pairs are counted as if every prompt gave one, completions at their longest: both are less")
        elif settings.rows and settings.prompt_tokens and settings.completion_tokens:
            groups = made_up_prompts(settings.rows, settings.prompt_tokens).answered(settings.completion_tokens, sides)
        else:
            with _missing("--rows, --prompt_tokens and --completion_tokens"):
                pairs = load_pairs(data.source, data.set_aside, sides)
                data.pairs, data.encoder = some(pairs, settings.sample), _encoder(source, data.max_prompt_tokens)
                completions = tuple(tuple(map(len, pair.sides[:sides])) for pair in data.encoded)
                prompts = [pair.prompt for pair in data.encoded]
            groups = replace(Groups.of(len(pairs), prompts, _image_token(source)), completions=completions)
        steps = total_steps(data.steps_of(groups.rows), trainer.max_epochs, trainer.max_steps)
        trained_on = min(steps * data.batch_size, groups.rows * max(1, trainer.max_epochs or 1))
        work = {"optimizer steps": steps, "pairs": trained_on, "tokens trained on": round(trained_on * groups.tokens)}
        return groups, work, notes

    def _prompts(self, source: PromptSource, model: str, longest: int | None = None) -> Groups:
        rows, tokens = self.settings.rows, self.settings.prompt_tokens
        if rows and tokens:
            return made_up_prompts(min(rows, source.limit or rows), tokens)
        with _missing("--rows and --prompt_tokens"):
            return read_prompts(source, lambda: _encoder(model, longest), _image_token(model), self.settings.sample)

    def _devices(self, trainer: Namespace, policy: PolicySettings) -> Devices:
        """How a model lies on the devices, and in what it computes there."""
        on_gpu, strategy = trainer.accelerator != "cpu", trainer.strategy
        ranks = self.settings.world_size or _number(trainer.devices, on_gpu) * trainer.num_nodes
        computing = Computing(on_gpu, autocast=_MIXED.get(trainer.precision))
        name = strategy if isinstance(strategy, str) else strategy.class_path
        if name.lower().endswith("fsdp2"):
            fsdp2 = FSDP2(**({} if isinstance(strategy, str) else vars(strategy.init_args)))
            if ranks % fsdp2.replicas:
                raise SpecsError(f"{ranks} processes cannot be divided among {fsdp2.replicas} replicas")
            return replace(
                self._device(replace(computing, weights=fsdp2.computing_dtype(trainer.precision))),
                ranks=ranks,
                strategy="fsdp2",
                shards=ranks // fsdp2.replicas,
                offload=fsdp2.cpu_offload,
                reshard=fsdp2.reshard_after_forward,
            )
        if ranks > 1 and not (name == "auto" or "ddp" in name.lower()):
            raise SpecsError(f"specs plan knows the strategies auto, ddp and fsdp2, not {name}")
        return replace(self._device(computing), ranks=ranks, strategy="ddp" if ranks > 1 else "single")

    def _device(self, computing: Computing) -> Devices:
        """One, of the size that is asked for or that is here."""
        if self.settings.gpu_memory_gb is not None:
            memory = int(self.settings.gpu_memory_gb * GIB)
        elif not computing.on_gpu:
            memory = psutil.virtual_memory().total
        elif torch.cuda.is_available():
            memory = torch.cuda.get_device_properties(0).total_memory
        else:
            memory = 80 * GIB
        overhead = int(self.settings.overhead_gb * GIB) if computing.on_gpu else 0
        return Devices(memory, overhead, computing=computing)


def _arguments(planned: PlannedStage, engine: str | None) -> list[str]:
    overrides = [f"--{key}={as_argument(value)}" for key, value in planned.stage.overrides.items()]
    return [f"--config={planned.stage.config}", *overrides, *([engine] if engine else [])]


def _number(devices: Any, on_gpu: bool) -> int:
    if isinstance(devices, list):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        return max(1, torch.cuda.device_count()) if on_gpu else 1
    return int(devices)


def _encoder(source: str, longest: int | None) -> PromptEncoder:
    return PromptEncoder(load_processor(model_source(source)), longest, image_memory_gib=0)


def _image_token(source: str) -> int | None:
    return getattr(model_shape(source), "image_token_id", None)


@contextmanager
def _missing(settings: str) -> Iterator[None]:
    """What to give where data or processor cannot be read yet."""
    try:
        yield
    except (SpecsError, OSError) as error:
        raise SpecsError(f"{error}\nTo plan before data and model are there, give {settings}.") from error
