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


@pytest.mark.parametrize(
    "settings",
    [
        VLLMSettings(tensor_parallel_size=2),
        VLLMSettings(arguments={"pipeline_parallel_size": 2}),
        VLLMSettings(arguments={"distributed_executor_backend": "external_launcher"}),
    ],
)
def test_several_devices_are_for_servers(settings: VLLMSettings) -> None:
    with pytest.raises(ValueError, match=r"specs serve --vllm.tensor_parallel_size.*VLLMServers"):
        VLLMEngine(settings)


def test_it_needs_weights_first() -> None:
    with pytest.raises(EngineError, match="sync"):
        VLLMEngine().generate([], SAMPLING, "seed")


class SleepingSampler:
    """Notes what an engine asks of its sampler, in the manner of a GPU."""

    dtype = torch.bfloat16

    def __init__(self) -> None:
        self.version = -1
        self.asked: list[str] = []
        self.handed: list[dict[str, torch.Tensor]] = []

    def sleep(self, level: int) -> None:
        self.asked.append(f"sleep {level}")

    def wake_up(self) -> None:
        self.asked.append("wake up")

    def load_weights(self, named_weights: Any, version: int) -> None:
        self.asked.append("load")
        self.version = -1
        self.handed.append(dict(named_weights))
        self.version = version

    def generate(self, *unused: Any) -> list[list[Completion]]:
        self.asked.append("generate")
        return []

    def close(self) -> None:
        self.asked.append("close")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SleepingSampler:
    fake = SleepingSampler()
    monkeypatch.setattr("specs_lightning.rollout.vllm.VLLMSampler", lambda *unused: fake)
    return fake


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, ["load", "generate", "generate"]),
        (1, ["load", "generate", "sleep 1", "wake up", "generate", "sleep 1"]),
        (2, ["load", "generate", "sleep 2", "wake up", "load", "generate", "sleep 2"]),
    ],
)
def test_it_sleeps_while_the_policy_trains(
    fake: SleepingSampler, tiny_model_path: Path, level: Any, expected: list[str]
) -> None:
    """Weights that a sleep of level 2 threw away are loaded again, though the policy has not changed."""
    engine, policy = VLLMEngine(sleep_level=level), sharp_policy(tiny_model_path)
    for _ in range(2):
        engine.sync(policy)
        engine.sync(policy)
        engine.generate([], SAMPLING, "seed")
        engine.release()
        engine.release()
    assert fake.asked == expected


def vision_came(fake: SleepingSampler) -> list[bool]:
    """Of each hand-over; the rest of the model always does."""
    assert all(any("layers.1" in name and "visual" not in name for name in handed) for handed in fake.handed)
    return [any("visual" in name for name in handed) for handed in fake.handed]


def test_weights_come_in_the_engines_type_and_a_frozen_vision_tower_once(
    fake: SleepingSampler, tiny_model_path: Path
) -> None:
    engine, policy = VLLMEngine(sleep_level=0), sharp_policy(tiny_model_path)
    for _ in range(3):
        policy.version += 1
        engine.sync(policy)
    assert vision_came(fake) == [True, False, False]
    assert {weight.dtype for handed in fake.handed for weight in handed.values()} == {torch.bfloat16}
    for name, weight in policy.named_weights():
        assert torch.equal(fake.handed[0][name], weight.bfloat16())


def test_a_vision_tower_comes_again_where_it_may_be_another(fake: SleepingSampler, tiny_model_path: Path) -> None:
    engine, policy = VLLMEngine(sleep_level=2), sharp_policy(tiny_model_path)
    engine.sync(policy)
    other = sharp_policy(tiny_model_path)
    engine.sync(other)  # of another policy
    other.load_state_dict(policy.state_dict())
    engine.sync(other)  # which has read all of its weights anew
    engine.release()
    engine.sync(other)  # after a sleep that has lost them
    fake.version = -1
    engine.sync(other)  # after a hand-over that failed
    assert vision_came(fake) == [True] * 5


def test_a_vision_tower_that_is_trained_comes_each_time(fake: SleepingSampler, tiny_model_path: Path) -> None:
    engine, policy = VLLMEngine(sleep_level=0), sharp_policy(tiny_model_path, freeze_vision=False)
    for _ in range(2):
        policy.version += 1
        engine.sync(policy)
    assert vision_came(fake) == [True, True]


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
