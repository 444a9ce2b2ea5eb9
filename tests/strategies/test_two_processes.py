"""Two processes on the CPU train, go on from checkpoints and hand over as one does, all within a time limit."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.full_disks import no_room_for
from helpers.small_runs import Curve, Letters, small_trainer
from helpers.small_trainings import (
    RESUMED,
    STOP,
    STRATEGIES,
    TRAININGS,
    VISION,
    WRITERS,
    Outcome,
    Room,
    Training,
    differences,
    make,
    some_logprobs,
)
from helpers.two_processes import on_two_processes
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.tensor import DTensor
from torch.testing import assert_close

from specs_lightning.data.sources import PromptSource
from specs_lightning.errors import SpecsError
from specs_lightning.groups import Completion, Prompt
from specs_lightning.modules import PolicyModule
from specs_lightning.modules.checkpoint_files import by_step
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import BrokenWeights, Policy
from specs_lightning.rewards import RewardSum
from specs_lightning.rollout import EngineError, HFEngine
from specs_lightning.strategies import FSDP2
from specs_lightning.system.ranks import OtherRankFailed, rank

pytestmark = pytest.mark.slow

SETTINGS: dict[str, dict[str, Any]] = {
    "two replicas": {"replicas": 2},
    "gathered until the backward pass": {"reshard_after_forward": False},
    "offloaded": {"cpu_offload": True},
}


UNSCORED: dict[str, Any] = {"prompts_per_round": 4, "dynamic_sampling": None}
"""Groups stay in the order in which they were asked for: those of each process are known."""


def assert_same(outcome: Outcome, expected: Outcome, after: int = 0) -> None:
    found = differences(outcome, expected, after)
    assert max(found.values()) <= 1e-5, found


class StopOne(Callback):
    """The second process gets SIGTERM in the middle of its second step."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: PolicyModule, *unused: Any) -> None:  # type: ignore[override]
        if (rank(), pl_module.steps) == (1, STOP - 2):
            os.kill(os.getpid(), signal.SIGTERM)


class BreaksOne(Callback):
    """The second process's part of a weight is no number after the first step."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: PolicyModule, *unused: Any) -> None:  # type: ignore[override]
        if rank() == 1:
            weight = next(pl_module.policy.parameters()).detach()
            (weight.to_local() if isinstance(weight, DTensor) else weight).fill_(torch.nan)


class FailsOnOne(HFEngine):
    """Breaks down in the second process alone."""

    def generate(self, *args: Any) -> list[list[Completion]]:
        if rank() == 1:
            raise EngineError("out of memory")
        return super().generate(*args)


def stop(room: Room, strategy: str) -> Outcome:
    """One process is told to stop; then both go on from where they did."""
    label = f"{strategy}-stopped"
    with pytest.raises(SIGTERMException):
        room.train(2, strategy, "cold start", StopOne(), label=label)
    (checkpoint,) = by_step(room.of(2, label, "cold start") / "checkpoints")
    assert checkpoint.name == f"step={STOP - 1}.ckpt"
    return room.train(2, strategy, "cold start", label=label, resume=checkpoint)


def fill_disk(room: Room, strategy: str) -> str:
    """What a process says when a checkpoint has no room, of shards that of the second process."""
    name = f"step={STOP}.ckpt"
    with no_room_for(name, "__1_0.distcp" if strategy == "fsdp2" else None), pytest.raises(SpecsError) as refused:
        room.train(2, strategy, "cold start", label=f"{strategy}-full")
    assert not list(room.of(2, f"{strategy}-full", "cold start").glob(f"checkpoints/{name}*"))
    return f"{type(refused.value).__name__}: {refused.value}"


def break_weights(room: Room) -> str:
    """What a process says when weights are broken that the second one holds."""
    with pytest.raises(BrokenWeights) as refused:
        room.train(2, "fsdp2", "cold start", BreaksOne(), label="fsdp2-broken")
    assert by_step(room.of(2, "fsdp2-broken", "cold start") / "checkpoints") == []
    return str(refused.value)


@dataclass(frozen=True)
class Found:
    """What one of two processes found."""

    trained: dict[tuple[str, str], Outcome]
    settings: dict[str, Outcome]
    resumed: dict[tuple[str, str, str], Outcome]
    stopped: dict[str, Outcome]
    no_room: dict[str, str]
    broken: str
    rates: dict[str, float]
    error: str
    reduced: Outcome
    unscored: dict[str, tuple[list[float], torch.Tensor]]


def find(room: Room) -> Found:
    return Found(
        trained=room.train_all(),
        settings={label: room.train(2, FSDP2(**settings), "GRPO", label=label) for label, settings in SETTINGS.items()},
        resumed=room.resume_all(),
        stopped={strategy: stop(room, strategy) for strategy in STRATEGIES},
        no_room={strategy: fill_disk(room, strategy) for strategy in STRATEGIES},
        broken=break_weights(room),
        rates=validate(room, 2, "fsdp2"),
        error=failure(room),
        reduced=room.train(2, "fsdp2", "GRPO", label="reduced", precision="bf16-mixed"),
        unscored=without_scores(room),
    )


def validate(room: Room, processes: int, strategy: str) -> dict[str, float]:
    """The rates on a set that cannot be divided evenly; answers go to `predictions.jsonl`."""
    module, data = make(TRAININGS["GRPO"], room.model, room.folder)
    data.evaluation, data.evaluation_batch = {"few": PromptSource(str(room.folder / "prompts.jsonl"), limit=5)}, 2
    trainer = small_trainer(room.of(processes, strategy, "validated"), strategy=strategy, devices=processes)
    (rates,) = trainer.validate(module, datamodule=data, verbose=False)
    trainer.predict(module, datamodule=data, return_predictions=False)
    return dict(rates)


class UnscoredOnOne(Letters):
    """Has no score for what the second process has sampled, and from the third round on for nothing."""

    name = "unscored"

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> torch.Tensor:
        self.asked += 1
        values_N = super().__call__(prompts, completions)
        return values_N * torch.nan if rank() == 1 or self.asked > 2 else values_N


def without_scores(room: Room) -> dict[str, tuple[list[float], torch.Tensor]]:
    """Of each strategy: which steps were skipped, and what the trained policy gives some completions."""
    found = {}
    for strategy in STRATEGIES:
        module, data = make(Training("grpo", VISION, data=UNSCORED), room.model, room.folder)
        data.rewards = RewardSum([UnscoredOnOne()], max_unscored_share=1.0)
        curve = Curve()
        folder = room.folder / f"{strategy}-unscored"
        small_trainer(folder, curve, strategy=strategy, devices=2).fit(module, datamodule=data)
        found[strategy] = curve["skipped"], some_logprobs(module.policy)
    return found


def failure(room: Room) -> str:
    module, data = make(TRAININGS["GRPO"], room.model, room.folder)
    data.engine = FailsOnOne()
    try:
        small_trainer(room.folder, strategy="ddp", devices=2).fit(module, datamodule=data)
    except (OtherRankFailed, EngineError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


@pytest.fixture(scope="module")
def room(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room.furnished(tiny_model_path, tmp_path_factory.mktemp("room"))


@pytest.fixture(scope="module")
def alone(room: Room) -> dict[str, Outcome]:
    return room.train_alone()


@pytest.fixture(scope="module")
def pair(room: Room, alone: dict[str, Outcome]) -> list[Found]:
    return on_two_processes(find, room.folder / "pair", room)


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_as_one(pair: list[Found], alone: dict[str, Outcome], strategy: str, name: str) -> None:
    for found in pair:
        assert_same(found.trained[strategy, name], alone[name])


def test_a_step_without_scores_on_one_process_is_trained_and_one_without_any_skipped(pair: list[Found]) -> None:
    """Neither leaves a process waiting for the other."""
    for strategy in STRATEGIES:
        (skipped, logprobs_NT), (_, others_NT) = (found.unscored[strategy] for found in pair)
        assert skipped == [0, 0, 0, 0, 1, 1]
        assert logprobs_NT.isfinite().all()
        assert_close(logprobs_NT, others_NT)


def test_each_process_holds_half_of_the_weights(pair: list[Found], alone: dict[str, Outcome]) -> None:
    for name in TRAININGS:
        first, second = (found.trained["fsdp2", name].held for found in pair)
        assert first + second == alone[name].held
        assert first == pytest.approx(second, rel=0.05)


@pytest.mark.parametrize("label", SETTINGS)
def test_settings_of_the_strategy_do_not_change_the_result(
    pair: list[Found], alone: dict[str, Outcome], label: str
) -> None:
    for found in pair:
        assert_same(found.settings[label], alone["GRPO"])


def test_replicas_hold_the_whole_model(pair: list[Found], alone: dict[str, Outcome]) -> None:
    assert [found.settings["two replicas"].held for found in pair] == [alone["GRPO"].held] * 2


def test_blocks_are_computed_in_bfloat16_where_asked_for(pair: list[Found], alone: dict[str, Outcome]) -> None:
    """Engine and trainer agree exactly then, too: at a round's first step the ratio is 1."""
    for found in pair:
        steps = found.reduced.steps
        assert [step["train/approximate_kl"] for step in steps[::2]] == [0, 0, 0]
        assert steps[0]["train/loss"] != alone["GRPO"].steps[0]["train/loss"]
        assert all(weight.dtype == torch.float32 for weight in found.reduced.weights.values())
        assert_close(found.reduced.gradients, alone["GRPO"].gradients, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize(("strategy", "writer"), WRITERS)
def test_two_processes_go_on_from_the_checkpoint_of_one(
    pair: list[Found], alone: dict[str, Outcome], strategy: str, writer: str, name: str
) -> None:
    for found in pair:
        assert_same(found.resumed[strategy, writer, name], alone[name], after=STOP)


def test_one_process_goes_on_from_the_checkpoint_of_two(
    room: Room, pair: list[Found], alone: dict[str, Outcome]
) -> None:
    for (_, _, name), outcome in room.resume_alone().items():
        assert_same(outcome, alone[name], after=STOP)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_finish_the_step_when_one_is_told_to_stop(
    pair: list[Found], alone: dict[str, Outcome], strategy: str
) -> None:
    for found in pair:
        assert_same(found.stopped[strategy], alone["cold start"], after=STOP - 1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_full_disk_ends_all(room: Room, pair: list[Found], strategy: str) -> None:
    told = [found.no_room[strategy] for found in pair]
    full = f"CheckpointError: .*step={STOP}.ckpt could not be saved: the disk is full"
    other = full if strategy == "fsdp2" else f"OtherRankFailed: process 0 of 2 failed: {full}"
    assert re.match(full, told[0]) and re.match(other, told[1])


def test_broken_weights_of_one_process_end_all_and_are_not_saved(pair: list[Found]) -> None:
    assert "weights are not finite" in pair[0].broken and pair[0].broken == pair[1].broken


def test_checkpoints_of_shards_hold_trained_weights_alone(room: Room, pair: list[Found]) -> None:
    for name in TRAININGS:
        reader = FileSystemReader(room.of(2, "fsdp2", name) / "checkpoints" / f"step={STOP}.ckpt")
        kept = {key for key in reader.read_metadata().state_dict_metadata if key.startswith("state_dict.")}
        assert {key.removeprefix("state_dict.") for key in kept} == set(pair[0].trained["fsdp2", name].weights)
    assert not list(room.folder.glob("**/*.partial"))


@pytest.mark.parametrize("name", ["cold start", "GRPO, LoRA"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_exported_model_gives_the_log_probabilities_of_the_shards(
    room: Room, pair: list[Found], strategy: str, name: str
) -> None:
    exported = Policy(PolicySettings(str(room.of(2, strategy, name) / "model")))
    assert_close(some_logprobs(exported), pair[0].trained[strategy, name].logprobs_NT, rtol=0, atol=1e-5)


def test_every_evaluation_prompt_is_answered_once(room: Room, pair: list[Found]) -> None:
    expected = validate(room, 1, "auto")
    rows = {}
    for processes, label in ((1, "auto"), (2, "fsdp2")):
        file = room.of(processes, label, "validated") / "predictions.jsonl"
        rows[processes] = [json.loads(line) for line in file.read_text().splitlines()]
    logprobs = {processes: [row.pop("logprob") for row in of_all] for processes, of_all in rows.items()}
    assert rows[2] == rows[1] and len(rows[1]) == 5
    assert logprobs[2] == pytest.approx(logprobs[1])  # prompts stand beside others in a batch: rounding differs
    for found in pair:
        assert found.rates == pytest.approx(expected, nan_ok=True)


def test_what_fails_in_one_process_ends_all(pair: list[Found]) -> None:
    assert [found.error for found in pair] == [
        "OtherRankFailed: process 1 of 2 failed: EngineError: out of memory",
        "EngineError: out of memory",
    ]
