"""vLLM in this process, as far as it needs no vLLM: what it refuses, and when it sleeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_policies import mixed_prompts, sharp_policy

from specs_lightning.groups import Completion
from specs_lightning.rollout import EngineError, SamplingSettings, VLLMEngine, VLLMSettings
from specs_lightning.rollout.sampler import SampleRequest

SAMPLING = SamplingSettings(2, 6)


def test_several_devices_are_for_servers() -> None:
    with pytest.raises(ValueError, match="specs serve"):
        VLLMEngine(VLLMSettings(tensor_parallel_size=2))


def test_it_needs_weights_first() -> None:
    with pytest.raises(EngineError, match="sync"):
        VLLMEngine().generate([], SAMPLING, "seed")


class SleepingSampler:
    """Notes what an engine asks of its sampler, in the manner of a GPU."""

    def __init__(self) -> None:
        self.version = 0
        self.asked: list[str] = []

    def sleep(self, level: int) -> None:
        self.asked.append(f"sleep {level}")

    def wake_up(self) -> None:
        self.asked.append("wake up")

    def load_weights(self, named_weights: Any, version: int) -> None:
        self.asked.append("load")
        self.version = version

    def generate(self, *unused: Any) -> list[list[Completion]]:
        self.asked.append("generate")
        return []


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, ["load", "generate", "generate"]),
        (1, ["load", "generate", "sleep 1", "wake up", "generate", "sleep 1"]),
        (2, ["load", "generate", "sleep 2", "wake up", "load", "generate", "sleep 2"]),
    ],
)
def test_it_sleeps_while_the_policy_trains(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, level: Any, expected: list[str]
) -> None:
    """Weights that a sleep of level 2 threw away are loaded again, though the policy has not changed."""
    fake = SleepingSampler()
    monkeypatch.setattr("specs_lightning.rollout.vllm.VLLMSampler", lambda *unused: fake)
    engine, policy = VLLMEngine(sleep_level=level), sharp_policy(tiny_model_path)
    fake.version = -1
    for _ in range(2):
        engine.sync(policy)
        engine.sync(policy)
        engine.generate([], SAMPLING, "seed")
        engine.release()
        engine.release()
    assert fake.asked == expected


@pytest.mark.parametrize("seeded", [True, False])
def test_without_seeds_each_call_sets_the_random_numbers_of_all_and_the_trainings_go_on(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, seeded: bool
) -> None:
    """The random state is put back after each call: without a seed of its own, each would be like the last."""
    drawn: list[tuple[float, int | None]] = []

    class Drawing(SleepingSampler):
        def generate(self, requests: Sequence[SampleRequest], *unused: Any) -> list[list[Completion]]:
            drawn.append((torch.rand(()).item(), requests[0].seed))
            return [[]]

    monkeypatch.setattr("specs_lightning.rollout.vllm.VLLMSampler", lambda *unused: Drawing())
    engine, policy = VLLMEngine(seeded=seeded), sharp_policy(tiny_model_path)
    engine.sync(policy)
    before = torch.get_rng_state()
    for seed in ("a", "b", "a"):
        engine.generate(mixed_prompts(policy)[:1], SAMPLING, seed)
    assert torch.equal(torch.get_rng_state(), before)
    numbers, seeds = zip(*drawn, strict=True)
    if seeded:
        assert len(set(seeds)) == 2 and None not in seeds
    else:
        assert seeds == (None,) * 3 and numbers[0] == numbers[2] != numbers[1]
    assert engine.decisive["seeded"] is seeded
