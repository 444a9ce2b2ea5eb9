import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: each worker has one core

import pytest
from helpers.tiny_models import tiny_qwen2_5_vl

from specs_lightning.groups import Completion, Prompt
from specs_lightning.rewards import AccuracyReward, MathVerifier


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Qwen2.5-VL; read only, since all tests share it."""
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("tiny_qwen2_5_vl"))


@pytest.fixture
def ask() -> Callable[..., Prompt]:
    def make(answer: str | None = "1", answer_type: str = "auto", **fields: Any) -> Prompt:
        messages = ({"role": "user", "content": "How many?"},)
        return Prompt("p", messages, answer=answer, answer_type=answer_type, **fields)

    return make


@pytest.fixture
def reply() -> Callable[..., Completion]:
    def make(text: str, finished: bool = True) -> Completion:
        return Completion((), (), text, finished)

    return make


@pytest.fixture(scope="session")
def verifier() -> Iterator[MathVerifier]:
    pool = MathVerifier(timeout_seconds=20.0)
    yield pool
    pool.close()


@pytest.fixture
def accuracy(verifier: MathVerifier) -> AccuracyReward:
    reward = AccuracyReward()
    reward.verifier = verifier
    return reward
