"""Two processes train with a real vLLM in each as one process does; what fails in one ends both, and says why."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from helpers.failing_ranks import OUT_OF_MEMORY, Ending, Refuses, assert_both_ended, ending, fail, out_of_memory
from helpers.small_runs import small_trainer
from helpers.small_trainings import STRATEGIES, TRAININGS, VISION, Outcome, Room, Training, differences, make, train
from helpers.tiny_models import tiny_qwen2_5_vl
from helpers.tiny_policies import sharp_policy
from helpers.two_processes import on_two_processes
from torch import Tensor

from specs_lightning.groups import Completion, EncodedPrompt, GroupBatch
from specs_lightning.policy.policy import Policy
from specs_lightning.rewards import RewardSum
from specs_lightning.rollout import EngineError, SamplingSettings, VLLMEngine, VLLMSettings, sampler
from specs_lightning.system.ranks import gather, rank

pytestmark = pytest.mark.slow

KINDS = {
    "vision trained": Training("grpo", VISION),
    "vision frozen": Training("grpo"),
    "adapters": TRAININGS["GRPO, LoRA"],
}
CASES = [(strategy, kind) for strategy in STRATEGIES for kind in KINDS]


class Watched(VLLMEngine):
    """Compares what it samples with the policy, and stays up from one training to the next: a start takes seconds."""

    def __init__(self) -> None:
        super().__init__(VLLMSettings(max_model_len=512, kv_cache_gib=0.1))
        self.gaps: list[float] = []
        """The largest difference of each round's log-probabilities from the policy's, on this process."""
        self.drawn: list[tuple[Sequence[EncodedPrompt], list[list[Completion]]]] = []
        self.handed: list[tuple[int, float]] = []
        """Of each hand-over how many weights came, and which share of all bytes was there at once."""
        self.fails: Callable[[str], None] = lambda what: None

    def sync(self, policy: Policy) -> None:
        self.policy = policy
        super().sync(policy)

    def _awake(self, policy: Policy) -> Any:
        found = super()._awake(policy)
        take = sampler.VLLMSampler.load_weights

        def load(named: Iterable[tuple[str, Tensor]], version: int) -> None:
            take(found, self.watch(named), version)

        found.load_weights = load  # type: ignore[method-assign]
        return found

    def watch(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        there: list[weakref.ref[Tensor]] = []
        most = total = count = 0
        for name, weight in named:
            there = [ref for ref in there if ref() is not None] + [weakref.ref(weight)]
            most = max(most, sum(held.nbytes for ref in there if (held := ref()) is not None))
            total, count = total + weight.nbytes, count + 1
            yield name, weight
            if name.endswith("layers.0.mlp.up_proj.weight"):
                self.fails("hand-over")
        self.handed.append((count, most / total))

    def generate(self, prompts: Sequence[EncodedPrompt], sampling: SamplingSettings, seed: str) -> Any:
        self.fails("sampling")
        drawn = super().generate(prompts, sampling, seed)
        self.drawn.append((prompts, drawn))
        self.gaps.append(gap(self.policy, prompts, drawn, sampling.temperature))
        return drawn

    def close(self) -> None:
        pass


@torch.no_grad()
def gap(policy: Policy, prompts: Sequence[EncodedPrompt], drawn: list[list[Completion]], at: float) -> float:
    policy.gather_weights()  # by all processes, however many prompts each has
    found = 0.0
    if prompts:
        batch = GroupBatch.from_token_ids(prompts, [[c.token_ids for c in group] for group in drawn])
        sampled = [torch.tensor(c.logprobs) for group in drawn for c in group]
        given_NT = policy.token_logprobs(batch, at).logprobs
        found = (given_NT - torch.nn.utils.rnn.pad_sequence(sampled, batch_first=True)).abs().max().item()
    policy.free_weights()
    return found


@dataclass(frozen=True)
class Trained:
    """A training, and what its engine saw on this process."""

    outcome: Outcome
    gaps: list[float]
    stale: float
    """How far the first round's completions are from the policy at the end."""
    handed: list[tuple[int, float]]


@dataclass(frozen=True)
class Found:
    """What one of two processes found."""

    trained: dict[tuple[str, str], Trained] = field(default_factory=dict)
    failed: dict[str, Ending] = field(default_factory=dict)
    ranks: list[int] = field(default_factory=list)
    """Those that meet after vLLM was closed."""


def run(room: Room, engine: Watched, processes: int, strategy: str, kind: str) -> Trained:
    engine.gaps, engine.drawn, engine.handed = [], [], []
    folder = room.of(processes, strategy, kind)
    outcome = train(KINDS[kind], room.model, room.folder, folder, engine=engine, strategy=strategy, devices=processes)
    stale = gap(engine.policy, *engine.drawn[0], 1.2)
    return Trained(outcome, engine.gaps, stale, engine.handed)


def failure(room: Room, engine: VLLMEngine, rewards: RewardSum | None = None) -> Ending:
    module, data = make(KINDS["vision trained"], room.model, room.folder)
    data.engine, data.rewards = engine, rewards or data.rewards
    trainer = small_trainer(room.folder, strategy="fsdp2", devices=2)
    return ending(lambda: trainer.fit(module, datamodule=data))


def failures(room: Room, engine: Watched) -> Iterator[tuple[str, Ending]]:
    """In the second process alone, in each of the ways."""

    def when(wanted: str, error: Exception) -> Callable[[str], None]:
        def fails(what: str) -> None:
            if rank() == 1 and what == wanted:
                fail(error)

        return fails

    yield "scoring", failure(room, engine, RewardSum([Refuses()]))
    for what, error in (("sampling", EngineError("no more")), ("hand-over", torch.OutOfMemoryError(OUT_OF_MEMORY))):
        engine.fails = when(what, error)
        yield what, failure(room, engine)
    engine.fails = lambda what: None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("specs_lightning.policy.export.make_room", out_of_memory)
        yield "gathering", failure(room, engine)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampler, "check_vllm", lambda: when("start", EngineError("no vLLM here"))("start"))
        yield "start", failure(room, VLLMEngine(engine.settings))


def find(room: Room) -> Found:
    engine, found = Watched(), Found()
    for strategy, kind in CASES:
        found.trained[strategy, kind] = run(room, engine, 2, strategy, kind)
    found.failed.update(failures(room, engine))
    VLLMEngine.close(engine)
    found.ranks.extend(gather(rank()))
    return found


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    """With a model whose answers depend visibly on its weights."""
    folder = tmp_path_factory.mktemp("room")
    sharp_policy(tiny_qwen2_5_vl(folder / "tiny", heads=2)).save(folder / "sharp")
    return Room.furnished(folder / "sharp", folder)


@pytest.fixture(scope="module")
def alone(room: Room) -> dict[str, Trained]:
    engine = Watched()
    trained = {kind: run(room, engine, 1, "auto", kind) for kind in KINDS}
    VLLMEngine.close(engine)
    return trained


@pytest.fixture(scope="module")
def pair(room: Room) -> list[Found]:
    return on_two_processes(find, room.folder / "pair", room, seconds=550)


@pytest.mark.parametrize(("strategy", "kind"), CASES)
def test_two_processes_train_as_one(pair: list[Found], alone: dict[str, Trained], strategy: str, kind: str) -> None:
    for found in pair:
        apart = differences(found.trained[strategy, kind].outcome, alone[kind].outcome)
        assert max(apart.values()) <= 1e-5, apart


@pytest.mark.parametrize(("strategy", "kind"), CASES)
def test_every_round_is_sampled_from_the_policy_as_it_is_then(
    pair: list[Found], alone: dict[str, Trained], strategy: str, kind: str
) -> None:
    for found in (alone[kind], *(found.trained[strategy, kind] for found in pair)):
        assert len(found.gaps) >= 3 and max(found.gaps) <= 1e-4
        assert found.stale > 1e-2, "weights of before would show"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_frozen_vision_tower_is_handed_over_once(pair: list[Found], strategy: str) -> None:
    for found in pair:
        first, *later = (count for count, _ in found.trained[strategy, "vision frozen"].handed)
        assert len(later) >= 2 and 0 < max(later) < first
        assert {count for count, _ in found.trained[strategy, "vision trained"].handed} == {first}


def test_the_model_is_never_whole_on_its_way(pair: list[Found]) -> None:
    """One layer of it is, and its embeddings, which here are much of it."""
    for found in pair:
        for kind in KINDS:
            assert all(0 < share < 0.5 for _, share in found.trained["fsdp2", kind].handed)


def test_closing_it_leaves_the_training_its_process_group(pair: list[Found]) -> None:
    assert [found.ranks for found in pair] == [[0, 1]] * 2


@pytest.mark.parametrize("what", ["scoring", "sampling", "hand-over", "gathering", "start"])
def test_what_fails_in_one_process_ends_all_within_seconds(pair: list[Found], what: str) -> None:
    cause = {
        "scoring": "RewardError: the judge has no budget left",
        "sampling": "EngineError: no more",
        "hand-over": f"OutOfMemoryError: {OUT_OF_MEMORY}",
        "gathering": f"OutOfMemoryError: {OUT_OF_MEMORY}",
        "start": "EngineError: no vLLM here",
    }[what]
    assert_both_ended([found.failed[what] for found in pair], 1, cause)
