"""Fake servers, and engines that talk to them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.server_checks import MakeEngine, StartServer
from helpers.tiny_policies import mixed_prompts, sharp_policy
from helpers.vllm_servers import SECRET, FakeSampler, FakeServer

from specs_lightning.groups import EncodedPrompt
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import VLLMServers
from specs_lightning.rollout.server.batch import ContinuousBatch
from specs_lightning.rollout.server.served import ServedSampler
from specs_lightning.rollout.tokens import TOKEN_ENV


@pytest.fixture
def policy(tiny_model_path: Path) -> Policy:
    return sharp_policy(tiny_model_path)


@pytest.fixture
def prompts(policy: Policy) -> list[EncodedPrompt]:
    mixed = mixed_prompts(policy)
    return [replace(mixed[i % len(mixed)], id=f"prompt {i}") for i in range(6)]


@pytest.fixture
def start(tiny_model_path: Path) -> Iterator[StartServer]:
    """Starts fake servers."""
    started: list[FakeServer] = []

    def start_one(*args: Any, **settings: Any) -> FakeServer:
        started.append(FakeServer(*(args or (tiny_model_path,)), **settings))
        return started[-1]

    yield start_one
    for server in started:
        server.stop()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeEngine]:
    """Makes engines that do not wait for servers."""
    monkeypatch.setenv(TOKEN_ENV, SECRET)
    made: list[VLLMServers] = []

    def make_one(*servers: FakeServer, **settings: Any) -> VLLMServers:
        chosen = {"start_timeout_s": 0.0, **settings}
        made.append(VLLMServers([server.url for server in servers], **chosen))
        return made[-1]

    yield make_one
    for engine in made:
        engine.close()


@pytest.fixture
def served(tiny_model_path: Path) -> Iterator[ServedSampler]:
    sampler = FakeSampler()
    batch = ContinuousBatch(sampler)
    with ThreadPoolExecutor(1) as thread, batch.running(thread):
        yield ServedSampler(sampler, batch, str(tiny_model_path))  # type: ignore[arg-type]
