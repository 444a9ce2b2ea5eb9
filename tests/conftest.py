"""What all tests share. Heavy imports are within fixtures: the process that hands tests out loads this file, too."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.tested_versions import pytest_terminal_summary  # noqa: F401  a hook of pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: each worker has one core
# Tests start many processes. Where nothing compiled may be kept, each would compile all of torch again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup` has ignored

if TYPE_CHECKING:
    from helpers.whole_runs import WholeRun

    from specs_lightning.groups import Completion, Prompt
    from specs_lightning.rewards import AccuracyReward, MathVerifier

LONGEST_FIRST = (
    "strategies/test_two_processes.py",
    "rollout/test_engine_contract.py",
    "rollout/test_vllm_in_every_process.py",
    "runs/test_kill_anywhere.py",
    "policy/test_families.py",
    "commands/test_fit.py",
    "runs/test_stages.py",
    "plan/test_peak_memory.py",
    "plan/test_memory.py",
    "rollout/test_servers.py",
    "rollout/test_sampler.py",
    "judge/test_vllm_judge.py",
    "test_configs.py",
    "plan/test_paper_scale.py",
    "report/test_pages_in_a_browser.py",
)
"""Files by the seconds that they take: a worker that began one of them last would keep the other waiting."""

PLACE_IN_A_GROUP = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "RANK", "WORLD_SIZE", "PL_GLOBAL_SEED")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {file: number for number, file in enumerate(LONGEST_FIRST)}
    tests = Path(__file__).parent
    items.sort(key=lambda item: place.get(item.path.relative_to(tests).as_posix(), len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """A training within the tests' own process leaves a process's place in a group behind: another would take it."""
    before = {name: os.environ.get(name) for name in PLACE_IN_A_GROUP}
    try:
        return (yield)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Qwen2.5-VL; read only, since all tests share it."""
    from helpers.tiny_models import tiny_qwen2_5_vl

    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("tiny_qwen2_5_vl"))


@pytest.fixture(scope="session")
def thinking_model_path(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a chat template that opens `<think>` for it, as those of R1 distills and Qwen3.5 do."""
    return _with_opening(tiny_model_path, tmp_path_factory.mktemp("thinking") / "model", "<think>\n")


@pytest.fixture(scope="session")
def switching_model_path(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a template that is told whether to think, as those of Qwen3 are."""
    opening = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    return _with_opening(tiny_model_path, tmp_path_factory.mktemp("switching") / "model", opening)


def _with_opening(model: Path, folder: Path, opening: str) -> Path:
    """A copy of a model whose template begins each answer so."""
    shutil.copytree(model, folder)
    file = folder / "chat_template.jinja"
    template = file.read_text()
    assert template.count("assistant\n{% endif %}") == 1
    file.write_text(template.replace("assistant\n{% endif %}", f"assistant\n{opening}{{% endif %}}"))
    return folder


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    """A small `specs run` from base to report, done once for all workers; read only."""
    from helpers.whole_runs import finished_run

    base = tmp_path_factory.getbasetemp()
    return finished_run(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture
def ask() -> Callable[..., Prompt]:
    from specs_lightning.groups import Prompt

    def make(answer: str | None = "1", answer_type: str = "auto", **fields: Any) -> Prompt:
        messages = ({"role": "user", "content": "How many?"},)
        return Prompt("p", messages, answer=answer, answer_type=answer_type, **fields)

    return make


@pytest.fixture
def reply() -> Callable[..., Completion]:
    from specs_lightning.groups import Completion

    def make(text: str, finished: bool = True) -> Completion:
        return Completion((), (), text, finished)

    return make


@pytest.fixture(scope="session")
def verifier() -> Iterator[MathVerifier]:
    from specs_lightning.rewards import MathVerifier

    pool = MathVerifier(timeout_seconds=20.0)
    yield pool
    pool.close()


@pytest.fixture
def accuracy(verifier: MathVerifier) -> AccuracyReward:
    from specs_lightning.rewards import AccuracyReward

    reward = AccuracyReward()
    reward.verifier = verifier
    return reward
