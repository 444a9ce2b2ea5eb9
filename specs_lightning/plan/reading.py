"""From configuration files to jobs: one for `specs fit` and `specs distill`, one for each stage of `specs run`.

Classes are made as a run would make them, the Trainer and the models left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from specs_lightning.callbacks import Checkpoints
from specs_lightning.commands.fit import SpecsCLI
from specs_lightning.data import EvaluationDataModule, PreferenceDataModule, RolloutDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.distill.pairs import distill
from specs_lightning.distill.waves import PROMPTS_AT_ONCE as CANDIDATES_AT_ONCE
from specs_lightning.distill.waves import wave_size
from specs_lightning.errors import SpecsError, refused_settings
from specs_lightning.evaluation.sets import PROMPTS_AT_ONCE
from specs_lightning.modules import PolicyModule
from specs_lightning.modules.step_loop import default_tokens_per_micro_batch, total_steps
from specs_lightning.plan.cost import Amount, Cost, cost_of
from specs_lightning.plan.job import Devices, Job, Sampling, Training
from specs_lightning.plan.known import ROWS, Known, models_named
from specs_lightning.plan.lengths import Groups
from specs_lightning.plan.memory import GIB, optimizer_bytes
from specs_lightning.plan.settings import PlanSettings
from specs_lightning.plan.shapes import model_shape
from specs_lightning.plan.trace import Computing
from specs_lightning.policy.loading import PolicySettings, check_trainable
from specs_lightning.rollout import (
    HFEngine,
    RolloutEngine,
    SamplingSettings,
    VLLMServers,
    engine_class_path,
    make_engine,
)
from specs_lightning.runs.measurement import EvaluationSettings
from specs_lightning.runs.pipeline import run
from specs_lightning.runs.planned_stages import (
    TEMPLATE,
    PlannedStage,
    as_argument,
    first_stages,
    plan_stages,
    with_template,
)
from specs_lightning.settings.functions import function_settings
from specs_lightning.settings.yaml_files import config_files, kind_of, layers, read_settings
from specs_lightning.strategies import FSDP2

_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
SAMPLED = "tokens sampled"
DEFAULT_KEPT = Checkpoints().keep


@dataclass(frozen=True)
class PlannedWork:
    """A stage: what it needs memory for, and what it will get through."""

    name: str
    job: Job
    work: dict[str, int]
    """Numbers of tokens, completions, steps and rounds, by what they are."""
    cost: Cost
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
        named = models_named(settings for file in reversed(files) for _, settings in layers(file))
        yield _Planner.of(cli.config, named).training_or_evaluation(name, cli)
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
    """Plans stages one after the other."""

    known: Known
    on_gpu: bool = True
    """Where stages run that have no Trainer to say it."""
    servers: int = 1
    """Those that the run starts."""

    @classmethod
    def of(cls, given: Any, named: tuple[str, ...] = ()) -> _Planner:
        return cls(Known(PlanSettings(**{f.name: given[f.name] for f in fields(PlanSettings)}), named))

    @property
    def settings(self) -> PlanSettings:
        return self.known.settings

    def run(self, given: dict[str, Any]) -> Iterator[PlannedWork]:
        folder = Path(given["run_dir"] or f"runs/{given['name']}")
        if given["servers"] is not None:
            self.servers = given["servers"].count
        told = with_template(given["stages"], given["chat_template_kwargs"])
        chosen = first_stages(told, given["until"])
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
                self.known.shapes[str(planned.model)] = self.known.source(cli.model.policy_settings.pinned)
                yield self.training(planned.name, cli)
            elif planned.stage.kind == "distill":
                arguments = [*_arguments(planned, engine and f"--engine={engine}"), f"--output={planned.folder}"]
                yield self.distill(planned.name, function_settings(distill, arguments))
            elif planned.stage.evaluate:
                yield self.base(planned, given["evaluation"], make_engine(given["engine"] or "hf"))

    def training_or_evaluation(self, name: str, cli: PlanCLI) -> PlannedWork:
        """What the settings of `specs fit` or of `specs test` are for."""
        data = cli.datamodule
        if not isinstance(data, EvaluationDataModule):
            return self.training(name, cli)
        devices = self._devices(cli.config.trainer, cli.model.policy_settings)
        return self.evaluation(
            name, cli.model.policy_settings, devices, data.evaluation, data.evaluation_sampling, data.engine
        )

    def training(self, name: str, cli: PlanCLI) -> PlannedWork:
        module, data, trainer = cli.model, cli.datamodule, cli.config.trainer
        policy: PolicySettings = module.policy_settings
        check_trainable(policy)
        source = self.known.source(policy.pinned)
        devices = self._devices(trainer, policy)
        sampling, read = None, int(getattr(module.objective, "needs_reference", False))
        if isinstance(data, RolloutDataModule):
            groups, work, notes = self._rollouts(data, trainer, source, policy.chat_template_kwargs)
            at_once = -(-data.prompts_per_round // devices.ranks)
            sampling = Sampling(data.engine, data.sampling, at_once, groups.longest)
            per_step = data.prompts_per_step
            read = module.needs_old_logprobs + bool(module.objective.kl_coefficient)
        elif isinstance(data, PreferenceDataModule):
            groups, work, notes = self._pairs(data, module, trainer, source, policy.chat_template_kwargs)
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
        steps = work["optimizer steps"]
        trained = round(steps * per_step * groups.passed)
        callbacks = trainer.callbacks or []
        amount = Amount(
            sampled=work.get(SAMPLED, 0),
            samplers=self._samplers(data.engine, devices),
            trained=trained,
            read=read * trained,
            evaluated=sum(_evaluated(callback, steps) for callback in callbacks),
        )
        work["micro-batches a step and process"] = len(job.micro_batches()[0])
        if note := data.idle_note(devices.ranks):
            notes.append(note)
        if groups.images is None and not policy.freeze_vision:
            notes.append("no image of the data is at hand: the vision tower's activations are not counted")
        return self._planned(name, job, work, amount, notes, _checkpoints_kept(callbacks))

    def distill(self, name: str, given: dict[str, Any]) -> PlannedWork:
        sampling: SamplingSettings = given["sampling"]
        source = self.known.source(given["base"])
        prompts = self.known.prompts(given["prompts"], source, template=given["chat_template_kwargs"])
        k, tokens = sampling.completions_per_prompt, self.settings.completion_tokens or sampling.max_tokens
        wanted = given["pairs"].max_pairs
        pairs = min(prompts.rows, wanted or prompts.rows)
        asked_for = min(prompts.rows, wave_size(wanted, 0, 0)) if wanted else prompts.rows
        notes = ["prompts that give no pair are made up for by others: how many depends on the models"]
        groups = replace(prompts, rows=pairs).answered(tokens, 2)
        self.known.pairs[str(Path(given["output"]) / "pairs.parquet")] = groups
        work = {
            "prompts": asked_for,
            "completions (of two models)": 2 * asked_for * k,
            SAMPLED: 2 * asked_for * k * tokens,
            "pairs, at most": pairs,
        }
        longest, engine = prompts.answered(tokens, k).longest, given["engine"] or HFEngine()
        asked = Sampling(engine, sampling, CANDIDATES_AT_ONCE, longest)
        devices = self._device(Computing(self.on_gpu))  # as the stage loads a model: on one
        job = Job(model_shape(source), PolicySettings(model=given["base"]), devices, sampling=asked)
        amount = Amount(work[SAMPLED], self._samplers(engine, devices))
        return self._planned(name, job, work, amount, notes if asked_for < prompts.rows else [])

    def base(self, planned: PlannedStage, evaluation: EvaluationSettings, engine: RolloutEngine) -> PlannedWork:
        """The base's evaluation; a run evaluates its later models in the same way."""
        template = planned.stage.overrides.get(TEMPLATE) or {}
        name, policy = f"{planned.name}: evaluation", PolicySettings(str(planned.model), chat_template_kwargs=template)
        devices = self._device(Computing(self.on_gpu))
        found = self.evaluation(name, policy, devices, evaluation.sets, evaluation.sampling, engine)
        return replace(found, notes=(*found.notes, "each evaluated model takes as much"))

    def evaluation(
        self,
        name: str,
        policy: PolicySettings,
        devices: Devices,
        sets: Mapping[str, PromptSource],
        sampling: SamplingSettings,
        engine: RolloutEngine,
    ) -> PlannedWork:
        source = self.known.source(policy.model)
        k, tokens = sampling.completions_per_prompt, self.settings.completion_tokens or sampling.max_tokens
        asked_of = partial(self.known.prompts, model=source, template=policy.chat_template_kwargs)
        asked = [asked_of(prompts).answered(tokens, k) for prompts in sets.values()]
        prompts = sum(found.rows for found in asked)
        work = {"prompts": prompts, "completions": prompts * k, SAMPLED: prompts * k * tokens}
        longest = max(found.longest for found in asked)
        job = Job(model_shape(source), policy, devices, sampling=Sampling(engine, sampling, PROMPTS_AT_ONCE, longest))
        return self._planned(name, job, work, Amount(work[SAMPLED], self._samplers(engine, devices)), [])

    def _samplers(self, engine: RolloutEngine, devices: Devices) -> int:
        """How many devices sample at once, as far as the settings say: a server may have several."""
        return (len(engine.urls) or self.servers) if isinstance(engine, VLLMServers) else devices.ranks

    def _planned(
        self, name: str, job: Job, work: dict[str, int], amount: Amount, notes: list[str], kept: int = 0
    ) -> PlannedWork:
        cost = cost_of(job, amount, self.settings, kept)
        return PlannedWork(name, job, work, cost, (*notes, *self.known.taken()))

    def _rollouts(
        self, data: RolloutDataModule, trainer: Namespace, source: str, template: dict[str, Any]
    ) -> tuple[Groups, dict[str, int], list[str]]:
        tokens, k = self.settings.completion_tokens or data.sampling.max_tokens, data.sampling.completions_per_prompt
        groups = self.known.prompts(data.train, source, data.max_prompt_tokens, template).answered(tokens, k)
        steps = total_steps(data.steps_of(groups.rows), trainer.max_epochs, trainer.max_steps)
        rounds = -(-steps // data.steps_per_round)
        asked = rounds * data.prompts_per_round
        work = {
            "rounds": rounds,
            "optimizer steps": steps,
            "prompts": asked,
            "completions": asked * k,
            SAMPLED: asked * k * tokens,
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
        self,
        data: PreferenceDataModule,
        module: PolicyModule,
        trainer: Namespace,
        source: str,
        template: dict[str, Any],
    ) -> tuple[Groups, dict[str, int], list[str]]:
        groups = self.known.pairs_of(data, module.completions_per_pair, source, template)
        steps = total_steps(data.steps_of(groups.rows), trainer.max_epochs, trainer.max_steps)
        trained_on = min(steps * data.batch_size, groups.rows * max(1, trainer.max_epochs or 1))
        work = {"optimizer steps": steps, "pairs": trained_on, "tokens trained on": round(trained_on * groups.tokens)}
        return groups, work, []

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


def _evaluated(callback: Namespace, steps: int) -> int:
    """Tokens that a GeneralizationFactorCallback samples, completions at their longest; those of others are not
    known."""
    given = callback.get("init_args")
    if given is None or not callback.class_path.endswith("GeneralizationFactorCallback"):
        return 0
    sets = [given.in_distribution, *given.out_of_distribution.values()]
    prompts = sum(prompts["limit"] or ROWS for prompts in sets)
    times = 2 + (steps - 1) // given.every_n_steps if given.every_n_steps else 2  # before the first step and at the end
    return times * prompts * int(given.sampling.completions_per_prompt * given.sampling.max_tokens)


def _checkpoints_kept(callbacks: list[Namespace]) -> int:
    """The package's own callback is added where none is named."""
    named = (callback for callback in callbacks if callback.class_path.endswith("Checkpoints"))
    return next((int(callback.init_args.keep) for callback in named), DEFAULT_KEPT)
