"""What fails in one of two processes, whatever it is, ends both within seconds, and both say why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.failing_ranks import OUT_OF_MEMORY, Ending, Refuses, assert_both_ended, ending, fail, out_of_memory
from helpers.small_runs import small_trainer
from helpers.small_trainings import TRAININGS, Room, make
from helpers.two_processes import on_two_processes
from torch import Tensor

from specs_lightning.data.sources import PromptSource
from specs_lightning.groups import Completion
from specs_lightning.policy.policy import Policy
from specs_lightning.rewards import RewardSum
from specs_lightning.rollout import EngineError, HFEngine, RolloutEngine, VLLMServers
from specs_lightning.system.ranks import rank

pytestmark = pytest.mark.slow

CAUSES = {
    "gathering for the embedded engine": (1, f"OutOfMemoryError: {OUT_OF_MEMORY}"),
    "sending to servers": (0, f"OutOfMemoryError: {OUT_OF_MEMORY}"),
    "an engine of one's own": (1, "KeyError: 'lm_head'"),
    "scoring": (1, "RewardError: the judge has no budget left"),
    "evaluation": (1, "EngineError: no more"),
}
"""In which process, and with what."""


class Lost(HFEngine):
    """Cannot take over the weights in the second process."""

    def sync(self, policy: Policy) -> None:
        super().sync(policy)
        if rank() == 1:
            fail(KeyError("lm_head"))


class Tired(HFEngine):
    """Samples nothing in the second process."""

    def generate(self, *args: Any, **settings: Any) -> list[list[Completion]]:
        if rank() == 1:
            fail(EngineError("no more"))
        return super().generate(*args, **settings)


class NoRoom:
    """A delivery to servers that ends with the fourth weight."""

    weights_stay = True

    def send(self, policy: Policy, named: Iterator[tuple[str, Tensor]], *unused: Any) -> None:
        assert len(list(islice(named, 3))) == 3
        fail(torch.OutOfMemoryError(OUT_OF_MEMORY))

    def close(self) -> None:
        pass


def servers() -> VLLMServers:
    engine = VLLMServers(["http://127.0.0.1:1"])
    engine.delivery, engine._look = NoRoom(), lambda changed: True  # type: ignore[method-assign]
    return engine


def fit(room: Room, engine: RolloutEngine, rewards: RewardSum | None = None) -> None:
    module, data = make(TRAININGS["GRPO"], room.model, room.folder)
    data.engine, data.rewards = engine, rewards or data.rewards
    small_trainer(room.folder, strategy="fsdp2", devices=2).fit(module, datamodule=data)


def fit_without_room(room: Room) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("specs_lightning.policy.policy.make_room", out_of_memory)
        fit(room, HFEngine())


def validate(room: Room) -> None:
    module, data = make(TRAININGS["GRPO"], room.model, room.folder)
    data.engine, data.evaluation = Tired(), {"few": PromptSource(str(room.folder / "prompts.jsonl"), limit=4)}
    small_trainer(room.folder / "validated", strategy="ddp", devices=2).validate(module, datamodule=data)


WAYS: dict[str, Callable[[Room], None]] = {
    "gathering for the embedded engine": fit_without_room,
    "sending to servers": lambda room: fit(room, servers()),
    "an engine of one's own": lambda room: fit(room, Lost()),
    "scoring": lambda room: fit(room, HFEngine(), RewardSum([Refuses()])),
    "evaluation": validate,
}


def find(room: Room) -> dict[str, Ending]:
    return {name: ending(lambda: way(room)) for name, way in WAYS.items()}  # noqa: B023  called at once


@pytest.fixture(scope="module")
def pair(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Ending]]:
    room = Room.furnished(tiny_model_path, tmp_path_factory.mktemp("room"))
    return on_two_processes(find, room.folder / "pair", room)


@pytest.mark.parametrize("way", WAYS)
def test_both_end_and_say_why(pair: list[dict[str, Ending]], way: str) -> None:
    assert_both_ended([of_one[way] for of_one in pair], *CAUSES[way])
