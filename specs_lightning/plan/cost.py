"""What a stage takes beside its devices' memory: the machine's memory, its disk, and time."""

from __future__ import annotations

from dataclasses import dataclass

from specs_lightning.modules.step_speed import PEAK_TFLOPS, operations_a_token
from specs_lightning.plan.job import Job
from specs_lightning.plan.memory import engine_dtype, memory_of, model_size
from specs_lightning.plan.settings import PlanSettings
from specs_lightning.policy.loading import empty_model
from specs_lightning.rollout import VLLMEngine

ASSUMED_GPU = "H100"
ASSUMED_MFU = 0.2
"""0.17 with 256 and 0.31 with 1,024 tokens a completion was measured on an H200, at the shape of Qwen2.5-VL-3B."""
ASSUMED_SAMPLED_PER_SECOND = 2000.0
"""Tokens, of a GPU. Not measured."""
PROCESS_BYTES = 3 * 2**30 // 2
"""Of a process with its libraries, before it has a model: 1.05 GiB measured on a CPU; the rest assumed for CUDA's."""
BYTES_A_SAMPLED_TOKEN = 5
"""Of a file of answers, which holds texts: measured on the toy's candidates."""


@dataclass(frozen=True)
class Amount:
    """Tokens that a stage gets through."""

    sampled: int = 0
    samplers: int = 1
    """Devices that sample, all at once."""
    trained: int = 0
    """Prompts included, each once."""
    read: int = 0
    """In forward passes beside those of training."""
    evaluated: int = 0
    """Sampled by evaluations while it trains."""


@dataclass(frozen=True)
class Cost:
    """Bytes and seconds, by what takes them. No seconds: nothing is known of how fast it is."""

    host: dict[str, int]
    """Of the machines' memory, all processes together."""
    disk: dict[str, int]
    seconds: dict[str, float]
    assumed: tuple[str, ...]


def cost_of(job: Job, amount: Amount, settings: PlanSettings, checkpoints_kept: int) -> Cost:
    """Of a whole stage.

    Args:
        checkpoints_kept: how many stay; there is one more while it is written.
    """
    seconds, assumed = _seconds(job, amount, settings)
    return Cost(_host(job), _disk(job, amount, checkpoints_kept), seconds, assumed)


def _host(job: Job) -> dict[str, int]:
    model, ranks = model_size(job), job.devices.ranks
    host = {"processes": ranks * PROCESS_BYTES}
    if job.devices.on_gpu:
        host["the model, as the first process reads it"] = model.weights
    if offloaded := memory_of(job).offloaded:
        host["shards"] = ranks * offloaded
    engine = job.sampling.engine if job.sampling else None
    if isinstance(engine, VLLMEngine) and job.devices.on_gpu and engine.sleep_level == 1:
        host["weights of engines that sleep"] = ranks * model.parameters * engine_dtype(job, engine).itemsize
    return host


def _disk(job: Job, amount: Amount, checkpoints_kept: int) -> dict[str, int]:
    if job.training is None:
        return {"answers": amount.sampled * BYTES_A_SAMPLED_TOKEN}
    model = model_size(job)
    checkpoint = model.trained + int(model.trained_parameters * job.training.optimizer_bytes)
    return {f"{checkpoints_kept + 1} checkpoints": (checkpoints_kept + 1) * checkpoint, "the model": model.weights}


def _seconds(job: Job, amount: Amount, settings: PlanSettings) -> tuple[dict[str, float], tuple[str, ...]]:
    sampled, trained, assumed = settings.sampled_per_second, settings.trained_per_second, []
    if job.devices.on_gpu and sampled is None:
        sampled = ASSUMED_SAMPLED_PER_SECOND
        assumed.append(f"a device samples {sampled:,.0f} tokens a second (--sampled_per_second)")
    operations = operations_a_token(empty_model(job.config, job.policy))
    a_token = operations.forward + operations.backward
    if job.devices.on_gpu and trained is None and job.training is not None:
        a_step = a_token + operations.forward * job.policy.gradient_checkpointing
        trained = ASSUMED_MFU * PEAK_TFLOPS[ASSUMED_GPU] * 1e12 / a_step
        rate = f"{ASSUMED_MFU:.0%} of an {ASSUMED_GPU}'s peak, {trained:,.0f} tokens a second on each"
        assumed.append(f"training reaches {rate} (--trained_per_second)")
    seconds = {}
    if sampled and amount.sampled:
        seconds["sampling"] = amount.sampled / sampled / amount.samplers
    if trained and amount.trained:
        as_trained = amount.trained + amount.read * operations.forward / a_token
        seconds["training"] = as_trained / trained / job.devices.ranks
    if sampled and amount.evaluated:
        seconds["evaluations"] = amount.evaluated / sampled / amount.samplers
    return seconds, tuple(assumed)
