"""Which setting to change where a stage does not fit: each proposal is planned again before it is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from specs_lightning.plan.job import Job
from specs_lightning.plan.memory import memory_of
from specs_lightning.policy.loading import LoRASettings
from specs_lightning.rollout import ENGINES, HFEngine, RolloutEngine, VLLMEngine

_OFFLOAD = "trainer.strategy: {class_path: specs_lightning.strategies.FSDP2, init_args: {cpu_offload: true}}"


@dataclass(frozen=True)
class Proposal:
    """Settings to change, all of them together, and what the fullest moment takes then."""

    settings: tuple[str, ...]
    peak: int


def proposals(job: Job) -> list[Proposal]:
    """Every single change that is enough or, where none is, the least costly changes that are together."""
    limit = job.devices.memory
    single = [Proposal((setting,), memory_of(changed).peak) for setting, changed in _changes(job)]
    if enough := [proposal for proposal in single if proposal.peak <= limit]:
        return enough
    settings: dict[str, str] = {}
    peak = memory_of(job).peak
    while peak > limit:
        smaller = ((s, changed, memory_of(changed).peak) for s, changed in _changes(job))
        found = next((entry for entry in smaller if entry[2] < peak), None)
        if found is None:
            break
        setting, job, peak = found
        settings[setting.partition(":")[0]] = setting  # a setting may be changed more than once
    return [Proposal(tuple(settings.values()), peak)] if settings else []


def _changes(job: Job) -> Iterator[tuple[str, Job]]:
    """What can be changed, the least costly first."""
    yield from _changed_engines(job)
    policy, devices, training = job.policy, job.devices, job.training
    if training is None:
        return
    if not policy.gradient_checkpointing:
        changed = replace(policy, gradient_checkpointing=True)
        yield "model.policy.gradient_checkpointing: true", replace(job, policy=changed)
    fewer = max(training.max_tokens // 2, training.groups.longest)
    if fewer < training.max_tokens:
        setting = f"model.max_tokens_per_micro_batch: {fewer}"
        yield setting, replace(job, training=replace(training, max_tokens=fewer))
    if devices.ranks > 1 and devices.strategy != "fsdp2":
        reduced = torch.bfloat16 if devices.computing.autocast == torch.bfloat16 else None
        computing = replace(devices.computing, weights=reduced)
        sharded = replace(devices, strategy="fsdp2", shards=devices.ranks, computing=computing)
        yield "trainer.strategy: fsdp2", replace(job, devices=sharded)
    if devices.strategy == "fsdp2" and not devices.offload:
        yield _OFFLOAD, replace(job, devices=replace(devices, offload=True))
    if policy.lora is None:
        adapted = replace(policy, lora=LoRASettings(), dtype="bfloat16")
        yield "model.policy.lora: {}, model.policy.dtype: bfloat16", replace(job, policy=adapted)
    elif policy.quantization is None and devices.strategy != "fsdp2":
        yield "model.policy.quantization: 4bit", replace(job, policy=replace(policy, quantization="4bit"))


def _changed_engines(job: Job) -> Iterator[tuple[str, Job]]:
    sampling = job.sampling
    if sampling is None:
        return

    def sampled_by(engine: RolloutEngine) -> Job:
        return replace(job, sampling=replace(sampling, engine=engine))

    engine = sampling.engine
    if isinstance(engine, VLLMEngine) and job.devices.on_gpu:
        if not engine.sleep_level:
            yield "data.engine.init_args.sleep_level: 1", sampled_by(VLLMEngine(engine.settings, 1))
        if engine.settings.kv_cache_gib is None and engine.settings.gpu_memory_share > 0.3:
            share = round(engine.settings.gpu_memory_share - 0.1, 2)
            smaller = VLLMEngine(replace(engine.settings, gpu_memory_share=share), engine.sleep_level)
            yield f"data.engine.init_args.vllm.gpu_memory_share: {share}", sampled_by(smaller)
    if isinstance(engine, HFEngine):
        k = sampling.settings.completions_per_prompt
        sequences = min(engine.max_sequences, sampling.prompts * k) // 2
        if sequences >= k:
            setting = f"data.engine: {{class_path: {ENGINES['hf']}, init_args: {{max_sequences: {sequences}}}}}"
            yield setting, sampled_by(HFEngine(sequences))
