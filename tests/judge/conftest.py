"""A stand-in for an endpoint, and judges that do not wait long."""

from collections.abc import Iterator

import pytest
from helpers.judge_calls import KEY
from helpers.judge_servers import JudgeServer, judge_server

from specs_lightning.judge import judge as judge_module


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running
