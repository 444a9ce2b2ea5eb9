"""Short ways to a prompt and a completion, and one pool of math-verify processes for all tests."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from specs_lightning.groups import Completion, Prompt
from specs_lightning.rewards import AccuracyReward, MathVerifier


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
