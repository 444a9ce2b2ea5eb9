"""vLLM in this process, as far as it needs no vLLM: what it refuses, and when it sleeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_policies import sharp_policy

from specs_lightning.groups import Completion
from specs_lightning.rollout import EngineError, SamplingSettings, VLLMEngine, VLLMSettings

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
