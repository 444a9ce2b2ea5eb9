"""What a stage needs of each device's memory: sums of bytes, from a model's size and how it lies on the devices.

Three moments are told apart, since not everything is there at once: training (forward and backward pass), update (the
optimizer's step) and rollout (sampling). A run needs the largest of their sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from specs_lightning.groups import GroupBatch
from specs_lightning.plan.job import Job, Sampling
from specs_lightning.plan.lengths import image_tokens, row_lengths
from specs_lightning.plan.trace import Activations, activations, decoding_bytes, head_size, vision_bytes
from specs_lightning.policy.image_features import MAX_BYTES
from specs_lightning.policy.loading import DTYPES, empty_model, quantized_layers, trains_vision
from specs_lightning.rollout import HFEngine, VLLMEngine
from specs_lightning.strategies.fsdp2 import blocks

GIB = 2**30
FOUR_BIT_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a weight in 4 bits: a byte for each 64 of them, and 4 for each 256 of those bytes, are its constants."""
Moment = Literal["training", "update", "rollout"]
T = TypeVar("T")


@dataclass(frozen=True)
class MemoryPart:
    """Bytes that one thing takes of a device's memory at each moment."""

    name: str
    training: int = 0
    update: int = 0
    rollout: int = 0

    @classmethod
    def throughout(cls, name: str, size: int) -> MemoryPart:
        return cls(name, size, size, size)


@dataclass(frozen=True)
class Memory:
    """What one device needs, and what the CPU's memory takes of it instead."""

    parts: tuple[MemoryPart, ...]
    moments: tuple[Moment, ...]
    """Those that there are."""
    offloaded: int = 0
    """Bytes in the CPU's memory, for each process."""

    def total(self, moment: Moment) -> int:
        return sum(getattr(part, moment) for part in self.parts)

    @property
    def peak(self) -> int:
        return max(map(self.total, self.moments))

    @property
    def fullest(self) -> Moment:
        return max(self.moments, key=self.total)


@dataclass(frozen=True)
class ModelSize:
    """Bytes and numbers of a model's weights as they are kept between steps, on all devices together."""

    parameters: int
    weights: int
    """Bytes."""
    trained_parameters: int
    trained: int
    """Bytes of the weights that get gradients."""
    largest_trained: int
    """Bytes of the largest single one."""
    block_parameters: int
    """The largest block that sharding gathers as one."""
    outside_parameters: int
    """What is in no block: embeddings, head, the last norm."""
    largest_quantized: int
    """Bytes of the largest weight in 4 bits as it is computed with: it is made for its layer's pass."""
    trains_vision: bool


@dataclass(frozen=True)
class EngineMemory:
    """What a rollout engine takes of a training device while it samples, and what it keeps while the policy trains."""

    sampling: int = 0
    training: int = 0
    gathers: bool = False
    """It samples from the policy's own weights, which must be whole for it."""


def memory_of(job: Job) -> Memory:
    """What the job needs of each device."""
    model = model_size(job)
    engine = EngineMemory() if job.sampling is None else _engine_memory(job, job.sampling, model)
    parts, offloaded = [MemoryPart.throughout("weights", model.weights)], 0
    moments: tuple[Moment, ...] = ("rollout",)
    if job.training is not None:
        parts, offloaded = _training_parts(job, model, engine)
        moments = ("training", "update") if job.sampling is None else ("training", "update", "rollout")
    parts += [
        MemoryPart("rollout engine", engine.training, engine.training, engine.sampling),
        MemoryPart.throughout("device libraries", job.devices.overhead),
    ]
    there = tuple(part for part in parts if any(getattr(part, moment) for moment in moments))
    return Memory(there, moments, offloaded)


def _training_parts(job: Job, model: ModelSize, engine: EngineMemory) -> tuple[list[MemoryPart], int]:
    """What training takes, the engine's apart, and what of it lies in the CPU's memory."""
    training, devices = job.training, job.devices
    assert training is not None
    resident = {
        "weights": model.weights,
        "gradients": model.trained,  # they stay until the next step begins
        "optimizer state": int(model.trained_parameters * training.optimizer_bytes),
        "reference model": model.weights if training.second_model else 0,
    }
    parts = [MemoryPart.throughout(name, size // devices.shards) for name, size in resident.items()]
    offloaded = 0
    if devices.offload:
        offloaded, parts = sum(part.training for part in parts), []
    passed = _activations(job)
    return [
        *parts,
        MemoryPart("gathered weights", *_gathered(job, model, engine)),
        MemoryPart.throughout("gradient buckets", model.trained if devices.strategy == "ddp" else 0),
        MemoryPart("activations", training=passed.kept),
        MemoryPart("log-probabilities, recomputation", training=passed.peak - passed.kept),
        MemoryPart("update's own", update=_update(job, model)),
        MemoryPart.throughout("image features", _image_features(job)),
        MemoryPart("a layer out of 4 bits", training=model.largest_quantized, rollout=model.largest_quantized),
    ], offloaded


def _gathered(job: Job, model: ModelSize, engine: EngineMemory) -> tuple[int, int, int]:
    """Unsharded weights at each moment: what is in no block stays, and there are the current block and the one fetched
    ahead; in training also a block's gradient, before and after it is brought to float32 to be summed up."""
    devices = job.devices
    assert job.training is not None
    if devices.strategy != "fsdp2" or devices.shards == 1:
        return 0, 0, 0
    in_use = (model.outside_parameters + 2 * model.block_parameters) * job.dtype.itemsize
    whole = model.parameters * job.dtype.itemsize
    training = in_use if devices.reshard else whole
    training += model.block_parameters * (job.dtype.itemsize + 4) + (in_use if job.training.second_model else 0)
    return training, 0, whole if engine.gathers else 0


def _update(job: Job, model: ModelSize) -> int:
    """PyTorch's Adam makes a copy of all weights at once on a GPU, and two of one at a time on a CPU and for shards."""
    if job.devices.offload:
        return 0
    at_once = job.devices.on_gpu and job.devices.shards == 1
    return model.trained if at_once else 2 * model.largest_trained // job.devices.shards


def _image_features(job: Job) -> int:
    """What is kept of a frozen tower's results, as far as images are at hand: one for each token that it makes."""
    groups, devices = job.training.groups if job.training else None, job.devices
    if groups is None or groups.images is None or devices.strategy == "fsdp2" or model_size(job).trains_vision:
        return 0
    width: int = job.config.get_text_config().hidden_size
    numbers = groups.rows * groups.images.tokens * width
    return min(MAX_BYTES, numbers * (devices.computing.autocast or job.dtype).itemsize)


def model_size(job: Job) -> ModelSize:
    """Of the job's model, adapters included."""
    model = empty_model(job.config, job.policy)
    weights = list(model.parameters())
    quantized = [layer.weight for layer in quantized_layers(model)] if job.policy.quantization else []
    saved = sum(weight.nbytes - int(weight.numel() * FOUR_BIT_BYTES) for weight in quantized)
    trained = [weight for weight in weights if weight.requires_grad]
    sizes = [sum(weight.numel() for weight in block.parameters()) for block in blocks(model)]
    parameters = sum(weight.numel() for weight in weights)
    return ModelSize(
        parameters=parameters,
        weights=sum(weight.nbytes for weight in weights) - saved,
        largest_quantized=max((weight.nbytes for weight in quantized), default=0),
        trained_parameters=sum(weight.numel() for weight in trained),
        trained=sum(weight.nbytes for weight in trained),
        largest_trained=max((weight.nbytes for weight in trained), default=0),
        block_parameters=max(sizes, default=parameters),
        outside_parameters=parameters - sum(sizes),
        trains_vision=trains_vision(model),
    )


def optimizer_bytes(make: Any) -> float:
    """Bytes of state that an optimizer keeps for each weight, found by letting it take a step."""
    weight = nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.ones_like(weight)
    optimizer = make([weight])
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(value.nbytes for value in tensors if value.numel() > 1) / weight.numel()


def _activations(job: Job) -> Activations:
    """Of the micro-batch that takes most: the one with most tokens, or with the largest attention masks. Beside them
    what a trained vision tower keeps, in the one with most images."""
    training = job.training
    assert training is not None
    split = [batch for batches in job.micro_batches() for batch in batches if len(batch)]

    def tokens(batch: GroupBatch) -> int:
        rows = row_lengths(batch, job.shared_prefix)
        return len(rows) * max(rows)

    def pairs_of_tokens(batch: GroupBatch) -> int:
        groups = zip(map(len, batch.prompts), batch.lengths_N.split(batch.group_sizes), strict=True)
        return sum(p * p + int((lengths * (p + lengths)).sum()) for p, lengths in groups)

    largest = [max(split, key=size) for size in (tokens, pairs_of_tokens)]
    most = max((_pass(job, batch, training.second_model) for batch in largest), key=lambda passed: passed.peak)
    images = training.groups.images
    if images is None or not model_size(job).trains_vision:
        return most
    tokens_of_images = max(image_tokens(batch, job.shared_prefix, job.config.image_token_id) for batch in split)
    tower = _once(vision_bytes, job, images) * tokens_of_images // images.tokens
    return Activations(most.kept + tower, most.peak + tower)


def _pass(job: Job, batch: GroupBatch, reference: bool) -> Activations:
    lengths = tuple(map(len, batch.prompts)), tuple(batch.group_sizes), tuple(batch.lengths_N.tolist())
    return _once(activations, job, batch, reference, key=(lengths, reference))


_done: dict[Any, Any] = {}


def _once(trace: Callable[..., T], job: Job, *args: Any, key: Any = None) -> T:
    """A trace of the job's model; not twice in a process, since proposals and stages differ in few settings."""
    policy = repr(replace(job.policy, model=""))
    found = trace.__name__, job.config.to_json_string(), policy, job.devices.computing, key or args
    if found not in _done:
        _done[found] = trace(job.config, job.policy, job.devices.computing, *args)
    traced: T = _done[found]
    return traced


def _engine_memory(job: Job, sampling: Sampling, model: ModelSize) -> EngineMemory:
    engine, devices = sampling.engine, job.devices
    if isinstance(engine, VLLMEngine):
        if devices.on_gpu and engine.settings.kv_cache_gib is None:
            size = int(engine.settings.gpu_memory_share * devices.memory)
        else:
            cache = engine.settings.kv_cache_gib or 1.0
            size = model.parameters * engine_dtype(job, engine).itemsize + int(cache * GIB)
        return EngineMemory(size, 0 if devices.on_gpu and engine.sleep_level else size)
    if isinstance(engine, HFEngine):
        k = sampling.settings.completions_per_prompt
        sequences = min(sampling.prompts, max(1, engine.max_sequences // k)) * k
        return EngineMemory(_once(decoding_bytes, job, sequences, sampling.longest), gathers=True)
    return EngineMemory()  # elsewhere: servers have devices of their own


def engine_dtype(job: Job, engine: VLLMEngine) -> torch.dtype:
    """In which an engine has the weights."""
    return DTYPES[job.policy.dtype if engine.settings.dtype == "model" else engine.settings.dtype]


def cache_room(job: Job) -> int | None:
    """How many of the longest sequences vLLM's key-value cache holds at once; `None` for other engines."""
    if job.sampling is None or not isinstance(job.sampling.engine, VLLMEngine):
        return None
    model, dtype = model_size(job), engine_dtype(job, job.sampling.engine)
    cache = _engine_memory(job, job.sampling, model).sampling - model.parameters * dtype.itemsize
    text: Any = job.config.get_text_config()
    of_a_token: int = 2 * text.num_hidden_layers * text.num_key_value_heads * head_size(text) * dtype.itemsize
    return max(0, cache) // (job.sampling.longest * of_a_token)
