"""From configuration files to jobs: one for `specs fit` and `specs distill`, one for each stage of `specs run`.

Classes are made as a run would make them, the Trainer and the models left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from specs_lightning.cli import function_settings
from specs_lightning.data import PreferenceDataModule, RolloutDataModule
from specs_lightning.data.prompts import PromptEncoder
from specs_lightning.data.sources import PromptSource
from specs_lightning.distill.candidates import PROMPTS_AT_ONCE as CANDIDATES_AT_ONCE
from specs_lightning.errors import SpecsError, refused_settings
from specs_lightning.lightning_cli import SpecsCLI
from specs_lightning.micro_batches import default_tokens_per_micro_batch
from specs_lightning.model_files import model_source
from specs_lightning.modules import ColdStartModule, GRPOModule, PolicyModule
from specs_lightning.pipeline import EvaluationSettings, PlannedStage, as_argument, first_stages, plan_stages
from specs_lightning.plan.job import GIB, Device, Job, Sampling, Training, optimizer_bytes
from specs_lightning.plan.lengths import Lengths, pair_lengths, prompt_lengths
from specs_lightning.plan.memory import Layout
from specs_lightning.plan.settings import PlanSettings
from specs_lightning.plan.shapes import model_shape
from specs_lightning.plan.trace import Computing
from specs_lightning.policy import DTYPES, PolicySettings
from specs_lightning.processors import load_processor
from specs_lightning.rollout import HFEngine, RolloutEngine, SamplingSettings, engine_class_path, make_engine
from specs_lightning.settings_files import read_settings
from specs_lightning.stages import PROMPTS_AT_ONCE
from specs_lightning.strategies import FSDP2

_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class PlannedWork:
    """A stage: what it needs memory for, and what it will get through.

    Args:
        name: of the stage or its file.
        job: what its memory depends on.
        work: numbers of tokens, completions, steps and rounds, by what they are.
        notes: what was assumed.
    """

    name: str
    job: Job
    work: dict[str, int]
    notes: tuple[str, ...] = ()


@dataclass
class Known:
    """What earlier stages of a run will have written: their models' shapes and their pairs' lengths, by path."""

    models: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, Lengths] = field(default_factory=dict)

    def source(self, model: str, settings: PlanSettings) -> str:
        """Where a model's shape is found."""
        return settings.shape or self.models.get(model, model)


class PlanCLI(SpecsCLI):
    """Makes the module and the data module of a `specs fit` configuration, and no Trainer."""

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
    kind = _kind(args)
    if kind == "fit":
        cli = PlanCLI.launch(args, run=False)
        yield _fit(_name(args), cli, _plan_settings(cli.config), Known())
        return
    given = function_settings(kind, args, PlanSettings)
    settings = _plan_settings(given)
    if kind == "distill":
        yield _distill(_name(args), given, settings, Known())
    else:
        yield from _run(given, settings)


def _plan_settings(given: Any) -> PlanSettings:
    return PlanSettings(**{f.name: given[f.name] for f in fields(PlanSettings)})


def _kind(args: Sequence[str]) -> str:
    """Which command the configuration is of."""
    names = set()
    for file in _files(args):
        if not Path(file).is_file():
            raise SpecsError(f"no such configuration file: {file} (paths are relative to the working directory)")
        names |= set(read_settings(file))
    if "stages" in names:
        return "run"
    return "distill" if {"zero", "base"} & names else "fit"


def _files(args: Sequence[str]) -> list[str]:
    following = [after for arg, after in pairwise(args) if arg == "--config"]
    return following + [arg.removeprefix("--config=") for arg in args if arg.startswith("--config=")]


def _name(args: Sequence[str]) -> str:
    return ", ".join(_files(args)) or "plan"


# ------------------------------------------------------------------------------------------------------- stages


def _run(given: dict[str, Any], settings: PlanSettings) -> Iterator[PlannedWork]:
    stages = plan_stages(
        first_stages(given["stages"], given["until"]),
        given["evaluation"],
        Path(given["run_dir"] or f"runs/{given['name']}"),
        given["seed"],
        given["engine"],
    )
    engine = None if given["engine"] is None else as_argument(engine_class_path(given["engine"]))
    fits = {
        planned.name: PlanCLI.launch(_arguments(planned, engine and f"--data.engine={engine}"), run=False)
        for planned in stages
        if planned.stage.kind == "fit"
    }
    on_gpu = not fits or any(cli.config.trainer.accelerator != "cpu" for cli in fits.values())
    known = Known()
    for planned in stages:
        if planned.stage.kind == "fit":
            cli = fits[planned.name]
            known.models[str(planned.model)] = known.source(cli.model.policy_settings.model, settings)
            yield _fit(planned.name, cli, settings, known)
        elif planned.stage.kind == "distill":
            arguments = [*_arguments(planned, engine and f"--engine={engine}"), f"--output={planned.folder}"]
            distill = function_settings("distill", arguments)
            yield _distill(planned.name, distill, settings, known, on_gpu)
        elif planned.stage.evaluate:
            sampler = make_engine(given["engine"] or "hf")
            yield _evaluation(planned, given["evaluation"], sampler, settings, known, on_gpu)


def _arguments(planned: PlannedStage, engine: str | None) -> list[str]:
    overrides = [f"--{key}={as_argument(value)}" for key, value in planned.stage.overrides.items()]
    return [f"--config={planned.stage.config}", *overrides, *([engine] if engine else [])]


def _fit(name: str, cli: PlanCLI, settings: PlanSettings, known: Known) -> PlannedWork:
    module, data, trainer = cli.model, cli.datamodule, cli.config.trainer
    policy: PolicySettings = module.policy_settings
    source = known.source(policy.model, settings)
    layout, computing = _layout(trainer, policy, settings)
    on_gpu = trainer.accelerator != "cpu"
    device = _device(on_gpu, settings)
    if isinstance(data, RolloutDataModule):
        lengths, work, notes = _rollouts(data, trainer, source, settings)
        groups = data.prompts_per_step
        sampling = Sampling(data.engine, data.sampling, -(-data.prompts_per_round // layout.ranks), lengths.longest)
    elif isinstance(data, PreferenceDataModule):
        lengths, work, notes = _pairs(data, module, trainer, source, settings, known)
        groups, sampling = data.batch_size, None
    else:
        raise SpecsError(f"specs plan knows RolloutDataModule and PreferenceDataModule, not {type(data).__name__}")
    training = Training(
        lengths,
        groups,
        module.max_tokens_per_micro_batch or default_tokens_per_micro_batch("cuda" if on_gpu else "cpu"),
        module.whole_groups,
        optimizer_bytes(module.optimizer_callable),
        reference=_has_second_model(module),
    )
    job = Job(model_shape(source), policy, layout, device, computing, training, sampling)
    work["micro-batches a step and process"] = len(job.micro_batches())
    return PlannedWork(name, job, work, tuple(notes))


def _rollouts(
    data: RolloutDataModule, trainer: Namespace, source: str, settings: PlanSettings
) -> tuple[Lengths, dict[str, int], list[str]]:
    rows, prompts = _prompts(data.train, source, data.max_prompt_tokens, settings)
    completion = settings.completion_tokens or data.sampling.max_tokens
    k = data.sampling.completions_per_prompt
    lengths = Lengths(rows, prompts, ((completion,) * k,) * len(prompts))
    steps = (data.rounds or max(1, rows // data.prompts_per_round)) * data.steps_per_round
    if trainer.max_steps >= 0:
        steps = min(steps, trainer.max_steps)
    rounds = -(-steps // data.steps_per_round)
    asked = rounds * data.prompts_per_round
    work = {
        "rounds": rounds,
        "optimizer steps": steps,
        "prompts": asked,
        "completions": asked * k,
        "tokens sampled": asked * k * completion,
        "tokens trained on": round(steps * data.prompts_per_step * lengths.group),
    }
    notes = []
    if settings.completion_tokens is None:
        notes.append(
            f"completions are counted at their longest (sampling.max_tokens, {completion}): --completion_tokens says "
            "what is usual"
        )
    if data.dynamic_sampling is not None:
        notes.append("dynamic sampling draws further completions: how many depends on the policy")
    return lengths, work, notes


def _pairs(
    data: PreferenceDataModule,
    module: PolicyModule,
    trainer: Namespace,
    source: str,
    settings: PlanSettings,
    known: Known,
) -> tuple[Lengths, dict[str, int], list[str]]:
    sides = module.objective.completions_per_prompt if isinstance(module, ColdStartModule) else 2
    notes = []
    if data.train in known.pairs:
        lengths = known.pairs[data.train]
        lengths = Lengths(lengths.rows, lengths.prompts, tuple(group[:sides] for group in lengths.completions))
        notes.append("pairs are counted as if every prompt gave one, completions at their longest: both are less")
    elif settings.rows and settings.prompt_tokens and settings.completion_tokens:
        group = (settings.completion_tokens,) * sides
        lengths = Lengths(settings.rows, (settings.prompt_tokens,), (group,))
    else:
        with _missing("--rows, --prompt_tokens and --completion_tokens"):
            encoder = partial(_encoder, source, data.max_prompt_tokens)
            lengths = pair_lengths(data.train, encoder, sides, data.max_completion_tokens, settings.sample)
    epochs = max(1, trainer.max_epochs or 1)
    per_epoch = -(-lengths.rows // data.batch_size)
    steps = per_epoch * epochs if trainer.max_steps < 0 else min(per_epoch * epochs, trainer.max_steps)
    pairs = min(steps * data.batch_size, lengths.rows * epochs)
    work = {
        "optimizer steps": steps,
        "pairs": pairs,
        "tokens trained on": round(pairs * lengths.group),
    }
    return lengths, work, notes


def _distill(
    name: str, given: dict[str, Any], settings: PlanSettings, known: Known, on_gpu: bool = True
) -> PlannedWork:
    sampling: SamplingSettings = given["sampling"]
    source = known.source(given["base"], settings)
    rows, prompts = _prompts(given["prompts"], source, None, settings)
    k, completion = sampling.completions_per_prompt, settings.completion_tokens or sampling.max_tokens
    pairs = min(rows, given["pairs"].max_pairs or rows)
    known.pairs[str(Path(given["output"]) / "pairs.parquet")] = Lengths(
        pairs, prompts, ((completion,) * 2,) * len(prompts)
    )
    work = {
        "prompts": rows,
        "completions (of two models)": 2 * rows * k,
        "tokens sampled": 2 * rows * k * completion,
        "pairs, at most": pairs,
    }
    engine = given["engine"] or HFEngine()
    asked = Sampling(engine, sampling, CANDIDATES_AT_ONCE, max(prompts) + completion)
    return PlannedWork(name, _sampling_job(given["base"], source, asked, settings, on_gpu), work)


def _evaluation(
    planned: PlannedStage,
    evaluation: EvaluationSettings,
    engine: RolloutEngine,
    settings: PlanSettings,
    known: Known,
    on_gpu: bool,
) -> PlannedWork:
    """Of the base; a run evaluates its later models in the same way."""
    source = known.source(str(planned.model), settings)
    found = [_prompts(prompts, source, None, settings) for prompts in evaluation.sets.values()]
    rows, longest = sum(number for number, _ in found), max(max(lengths) for _, lengths in found)
    sampling = evaluation.sampling
    completion = settings.completion_tokens or sampling.max_tokens
    completions = rows * sampling.completions_per_prompt
    work = {"prompts": rows, "completions": completions, "tokens sampled": completions * completion}
    asked = Sampling(engine, sampling, PROMPTS_AT_ONCE, longest + completion)
    job = _sampling_job(str(planned.model), source, asked, settings, on_gpu)
    return PlannedWork(f"{planned.name}: evaluation", job, work, ("each evaluated model takes as much",))


def _sampling_job(model: str, source: str, sampling: Sampling, settings: PlanSettings, on_gpu: bool) -> Job:
    """As these stages load a model: on one device."""
    policy = PolicySettings(model=model)
    layout, device = Layout(on_gpu=on_gpu), _device(on_gpu, settings)
    return Job(model_shape(source), policy, layout, device, Computing(on_gpu), sampling=sampling)


# ------------------------------------------------------------------------------------------------- what they need


def _has_second_model(module: PolicyModule) -> bool:
    if isinstance(module, ColdStartModule):
        return module.objective.needs_reference and module.reference == "frozen"
    return isinstance(module, GRPOModule) and bool(module.objective.kl_coefficient)


def _layout(trainer: Namespace, policy: PolicySettings, settings: PlanSettings) -> tuple[Layout, Computing]:
    """How the model lies on the devices, and in what it computes there."""
    on_gpu = trainer.accelerator != "cpu"
    ranks = settings.world_size or _devices(trainer.devices, on_gpu) * trainer.num_nodes
    autocast = _MIXED.get(trainer.precision)
    strategy = trainer.strategy
    name = strategy if isinstance(strategy, str) else strategy.class_path
    if name.lower().endswith("fsdp2"):
        fsdp2 = FSDP2(**({} if isinstance(strategy, str) else vars(strategy.init_args)))
        if ranks % fsdp2.replicas:
            raise SpecsError(f"{ranks} processes cannot be divided among {fsdp2.replicas} replicas")
        chosen = fsdp2.param_dtype or ("bfloat16" if autocast == torch.bfloat16 else None)
        layout = Layout(
            ranks,
            "fsdp2",
            shards=ranks // fsdp2.replicas,
            offload=fsdp2.cpu_offload,
            reshard=fsdp2.reshard_after_forward,
            gathered_bytes=DTYPES[chosen or policy.dtype].itemsize,
            on_gpu=on_gpu,
        )
        return layout, Computing(on_gpu, DTYPES[chosen] if chosen else None, autocast)
    if ranks > 1 and not (name == "auto" or "ddp" in name.lower()):
        raise SpecsError(f"specs plan knows the strategies auto, ddp and fsdp2, not {name}")
    return Layout(ranks, "ddp" if ranks > 1 else "single", on_gpu=on_gpu), Computing(on_gpu, autocast=autocast)


def _devices(devices: Any, on_gpu: bool) -> int:
    if isinstance(devices, list):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        return max(1, torch.cuda.device_count()) if on_gpu else 1
    return int(devices)


def _device(on_gpu: bool, settings: PlanSettings) -> Device:
    if settings.gpu_memory_gb is not None:
        memory = int(settings.gpu_memory_gb * GIB)
    elif not on_gpu:
        memory = psutil.virtual_memory().total
    elif torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = 80 * GIB
    return Device(memory, int(settings.overhead_gb * GIB) if on_gpu else 0, on_gpu)


def _prompts(
    prompts: PromptSource, source: str, longest: int | None, settings: PlanSettings
) -> tuple[int, tuple[int, ...]]:
    """How many there are, and the tokens of some of them."""
    if settings.rows and settings.prompt_tokens:
        return min(settings.rows, prompts.limit or settings.rows), (settings.prompt_tokens,)
    with _missing("--rows and --prompt_tokens"):
        return prompt_lengths(prompts, partial(_encoder, source, longest), settings.sample)


def _encoder(source: str, longest: int | None) -> PromptEncoder:
    return PromptEncoder(load_processor(model_source(source)), longest, image_memory_gib=0)


@contextmanager
def _missing(settings: str) -> Iterator[None]:
    """What to give where data or processor cannot be read yet."""
    try:
        yield
    except (SpecsError, OSError) as error:
        raise SpecsError(f"{error}\nTo plan before data and model are there, give {settings}.") from error
