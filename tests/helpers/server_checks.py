"""What tests of rollout servers ask and check."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
import torch.multiprocessing
from helpers.vllm_servers import FakeServer

from specs_lightning.groups import Completion, EncodedPrompt
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import SamplingSettings, VLLMServers

SAMPLING = SamplingSettings(2, 8)
StartServer = Callable[..., FakeServer]
MakeEngine = Callable[..., VLLMServers]


def assert_answered(prompts: list[EncodedPrompt], completions: list[list[Completion]], version: int = 0) -> None:
    """Each prompt once, in order, by this version."""
    expected = [[f"{prompt.id}/{n}" for n in range(2)] for prompt in prompts]
    assert [[c.text for c in group] for group in completions] == expected
    assert {c.policy_version for group in completions for c in group} == {version}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the trainer's side warned of."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def fail(message: str, times: int = 1000) -> Callable[[], None]:
    remaining = [times]

    def raise_it() -> None:
        remaining[0] -= 1
        if remaining[0] >= 0:
            raise RuntimeError(message)

    return raise_it


def assert_holds(server: FakeServer, policy: Policy) -> None:
    named = dict(policy.named_weights())
    assert server.sampler.weights.keys() == named.keys()
    assert all(torch.equal(weight, named[name]) for name, weight in server.sampler.weights.items())
    assert server.sampler.version == policy.version
