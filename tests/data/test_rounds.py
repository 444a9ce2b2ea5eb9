"""A round: sampled with the current policy, scored, and refilled where groups teach nothing."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import Failing, Letters, ScriptedEngine
from helpers.tiny_policies import encode, sharp_policy

from specs_lightning.data.rounds import (
    DynamicSampling,
    Round,
    WrongPolicyVersion,
    add_old_logprobs,
    drawn_state,
    make_round,
    restored_draw,
)
from specs_lightning.errors import RewardError, SpecsError
from specs_lightning.groups import Completion, EncodedPrompt, GroupBatch, Prompt
from specs_lightning.objectives import GRPO
from specs_lightning.policy.policy import Policy
from specs_lightning.rewards import Reward, RewardSum
from specs_lightning.rollout import HFEngine, SamplingSettings

SAMPLING = SamplingSettings(3, 6)
SAME, DIFFERENT = ["aa", "aa", "aa"], ["a", "aa", "aaa"]


@pytest.fixture(scope="module")
def policy(tiny_model_path: Path) -> Policy:
    return sharp_policy(tiny_model_path)


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[EncodedPrompt]:
    sizes: list[list[tuple[int, int]]] = [[(84, 84)], [], [(56, 56)], []]
    return [encode(policy, f"p{i}", f"What is {i} + {i}?", size) for i, size in enumerate(sizes)]


def draw(
    policy: Policy,
    prompts: Sequence[EncodedPrompt],
    script: Callable[[Prompt, str], Sequence[str]],
    size: int = 4,
    dynamic: DynamicSampling | None = None,
    reward: Reward | None = None,
) -> tuple[Round, ScriptedEngine]:
    engine = ScriptedEngine(script)
    rewards = RewardSum([reward or Letters()])
    return make_round(policy, engine, rewards, cycle(prompts), size, SAMPLING, "s", dynamic), engine


class TestSeeds:
    def draw(self, policy: Policy, prompts: Sequence[EncodedPrompt], seed: str) -> dict[str, Any]:
        made = make_round(policy, HFEngine(), RewardSum([Letters()]), iter(prompts), len(prompts), SAMPLING, seed)
        assert [group.prompt.id for group in made.groups] == [prompt.id for prompt in prompts]
        return {group.prompt.id: group.completions for group in made.groups}

    def test_the_same_seed_gives_the_same_completions_in_whatever_order(
        self, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        first = self.draw(policy, prompts, "0-1")
        again = self.draw(policy, prompts[::-1], "0-1")
        tokens = {name: [c.token_ids for c in group] for name, group in first.items()}
        assert tokens == {name: [c.token_ids for c in group] for name, group in again.items()}

    def test_another_round_has_other_completions(self, policy: Policy, prompts: list[EncodedPrompt]) -> None:
        assert self.draw(policy, prompts, "0-1") != self.draw(policy, prompts, "0-2")

    def test_a_prompt_that_comes_again_gets_other_completions_and_the_first_the_same(
        self, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        """On any number of processes: which occurrence it is follows from the whole round."""

        def tokens(asked: Sequence[EncodedPrompt]) -> list[list[tuple[int, ...]]]:
            made = make_round(policy, HFEngine(), RewardSum([Letters()]), iter(asked), len(asked), SAMPLING, "0-1")
            assert [group.prompt for group in made.groups] == list(asked)
            return [[c.token_ids for c in group.completions] for group in made.groups]

        once = tokens(prompts)
        again = tokens([*prompts, *prompts[:2], prompts[0]])
        assert again[:4] == once
        assert len({ids for group in (again[0], again[4], again[6]) for ids in group}) == 9
        assert again[5] != again[1]


class TestDynamicSampling:
    def test_without_it_every_group_is_kept(self, policy: Policy, prompts: list[EncodedPrompt]) -> None:
        made, engine = draw(policy, prompts, lambda prompt, seed: SAME)
        assert [group.prompt.id for group in made.groups] == ["p0", "p1", "p2", "p3"]
        assert engine.calls == [("s", ["p0", "p1", "p2", "p3"])]
        assert made.metrics["groups_made_up"] == made.metrics["groups_without_signal"] == 0

    def test_groups_without_signal_are_replaced_until_the_round_is_full(
        self, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        def script(prompt: Prompt, seed: str) -> list[str]:
            return SAME if (prompt.id, seed) in {("p1", "s"), ("p2", "s"), ("p0", "s-1")} else DIFFERENT

        made, engine = draw(policy, prompts, script, dynamic=DynamicSampling())
        assert engine.calls == [("s", ["p0", "p1", "p2", "p3"]), ("s-1", ["p0", "p1"]), ("s-2", ["p2"])]
        assert [group.prompt.id for group in made.groups] == ["p0", "p3", "p1", "p2"]
        assert all(group.rewards.std() > 0 for group in made.groups)
        assert made.metrics["groups_drawn"] == 7
        assert made.metrics["groups_without_signal"] == pytest.approx(3 / 7)
        assert made.metrics["groups_made_up"] == 0

    def test_what_is_missing_after_the_last_refill_is_made_up_of_replaced_groups(
        self, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        def script(prompt: Prompt, seed: str) -> list[str]:
            return DIFFERENT if prompt.id == "p3" else SAME

        made, engine = draw(policy, prompts[:3] + prompts[3:], script, dynamic=DynamicSampling(max_refills=2))
        assert [len(ids) for _, ids in engine.calls] == [4, 3, 3]
        assert len(made.groups) == 4
        assert made.metrics["groups_made_up"] == sum(bool(g.rewards.std() == 0) for g in made.groups) == 2
        assert [group.prompt.id for group in made.groups].count("p3") == 2

    def test_without_refills_the_round_is_made_up_at_once(self, policy: Policy, prompts: list[EncodedPrompt]) -> None:
        made, engine = draw(policy, prompts, lambda prompt, seed: SAME, dynamic=DynamicSampling(max_refills=0))
        assert len(engine.calls) == 1
        assert made.metrics["groups_made_up"] == len(made.groups) == 4

    def test_groups_that_are_too_easy_or_too_hard_are_replaced_where_asked_for(
        self, policy: Policy, prompts: list[EncodedPrompt]
    ) -> None:
        class Accuracy(Letters):
            name = "accuracy"

            def __call__(self, prompts: Any, completions: Any) -> Any:
                return torch.tensor([float(c.text.startswith("right")) for c in completions])

        # The shares of right answers: 1/10, 1/2, 9/10, 19/20.
        rights = {"p0": 2, "p1": 10, "p2": 18, "p3": 19}

        def script(prompt: Prompt, seed: str) -> list[str]:
            right = rights[prompt.id] if seed == "s" else 10
            return ["right"] * right + ["wrong"] * (20 - right)

        def replaced(accuracy_range: tuple[float, float]) -> list[str]:
            dynamic = DynamicSampling(accuracy_range)
            made, _ = draw(policy, prompts, script, dynamic=dynamic, reward=Accuracy())
            shares = [int(group.rewards.sum()) for group in made.groups]
            return [name for name, right in rights.items() if right != 10 and right not in shares]

        assert replaced((0.0, 1.0)) == []
        assert replaced((0.05, 0.92)) == ["p3"]
        assert replaced((0.4, 0.6)) == ["p0", "p2", "p3"]


class TestUnscored:
    def test_they_are_counted_and_take_no_part(self, policy: Policy, prompts: list[EncodedPrompt]) -> None:
        reward = Failing(lambda prompt, completion: completion.text == "aa")
        made, _ = draw(policy, prompts, lambda prompt, seed: DIFFERENT, reward=reward)
        assert made.metrics["unscored"] == pytest.approx(1 / 3)
        assert made.metrics["reward"] == pytest.approx(2.0)
        batch = GRPO().weigh(GroupBatch.from_groups(made.groups))
        assert batch.advantages_N is not None
        advantages_G3 = batch.advantages_N.view(4, 3)
        assert (advantages_G3[:, 1] == 0).all()
        assert (advantages_G3[:, 0] < -0.5).all() and (advantages_G3[:, 2] > 0.5).all()
        assert not batch.mask_NT[1::3].any()
        assert batch.mask_NT[0::3].any(-1).all()

    def test_a_group_of_which_one_is_scored_teaches_nothing(self, policy: Policy, prompts: list[EncodedPrompt]) -> None:
        def script(prompt: Prompt, seed: str) -> list[str]:
            return ["a", "aa", "aa"] if seed == "s" and prompt.id == "p0" else ["a", "aaa", "aaaa"]

        reward = Failing(lambda prompt, completion: completion.text == "aa")
        made, engine = draw(policy, prompts, script, dynamic=DynamicSampling(), reward=reward)
        assert len(engine.calls) == 2
        assert made.metrics["groups_without_signal"] == pytest.approx(1 / 5)

    def test_too_many_of_them_end_the_run(self, policy: Policy, prompts: list[EncodedPrompt]) -> None:
        reward = Failing(lambda prompt, completion: True)
        with pytest.raises(RewardError, match=r"12 of 12 completions are unscored.*no score for this one"):
            draw(policy, prompts, lambda prompt, seed: DIFFERENT, reward=reward)


class TestPolicyVersion:
    class Stale(ScriptedEngine):
        """Says that some completions come from an earlier version: those of a seed."""

        def __init__(self, seed: str) -> None:
            super().__init__(lambda prompt, seed: SAME if prompt.id == "p1" else DIFFERENT)
            self.stale_seed = seed

        def generate(
            self, prompts: Sequence[EncodedPrompt], sampling: SamplingSettings, seed: str
        ) -> list[list[Completion]]:
            drawn = super().generate(prompts, sampling, seed)
            if seed == self.stale_seed:
                drawn[-1][1] = replace(drawn[-1][1], policy_version=3)
            return drawn

    @pytest.mark.parametrize("seed", ["s", "s-2"])
    def test_completions_of_another_version_than_asked_for_are_an_error(
        self, policy: Policy, prompts: list[EncodedPrompt], monkeypatch: pytest.MonkeyPatch, seed: str
    ) -> None:
        """In the first call, and where a round is filled up."""
        monkeypatch.setattr(policy, "version", 5)
        engine, rewards = self.Stale(seed), RewardSum([Letters()])
        with pytest.raises(
            WrongPolicyVersion, match=r"version 3 of the policy, where version 5 was asked for"
        ) as error:
            make_round(policy, engine, rewards, cycle(prompts[1:2]), 4, SAMPLING, "s", DynamicSampling())
        assert engine.calls[-1][0] == seed
        assert isinstance(error.value, SpecsError)


@pytest.fixture(scope="module")
def made(policy: Policy, prompts: list[EncodedPrompt]) -> Round:
    sampling = replace(SAMPLING, temperature=0.7)
    return make_round(policy, HFEngine(), RewardSum([Letters()]), iter(prompts), len(prompts), sampling, "s")


class TestOldLogprobs:
    @pytest.mark.parametrize("max_tokens", [1, 300, 100_000])
    def test_they_are_the_policys_own_whatever_one_forward_pass_takes(
        self, policy: Policy, made: Round, max_tokens: int
    ) -> None:
        """This engine is the policy itself, so that they are also what it reported."""
        groups = [replace(group) for group in made.groups]
        add_old_logprobs(policy, groups, 0.7, max_tokens)
        batch = GroupBatch.from_groups(groups)
        assert batch.old_logprobs_NT is not None
        torch.testing.assert_close(batch.old_logprobs_NT, batch.sampler_logprobs_NT, atol=1e-5, rtol=0)
        assert not batch.old_logprobs_NT.requires_grad
        lengths = [len(old) for group in groups for old in group.old_logprobs or []]
        assert lengths == batch.lengths_N.tolist()

    def test_of_no_groups_there_are_none(self, policy: Policy) -> None:
        add_old_logprobs(policy, [], 1.0, 100)

    def test_they_survive_a_checkpoint(self, policy: Policy, prompts: list[EncodedPrompt], made: Round) -> None:
        groups = [replace(group) for group in made.groups]
        add_old_logprobs(policy, groups[2:], 0.7, 1000)
        file = io.BytesIO()
        torch.save(Round(groups).state(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        restored = Round.from_state(state, {prompt.id: prompt for prompt in prompts}).groups
        assert [group.old_logprobs is None for group in restored] == [True, True, False, False]
        for old, new in zip(groups[2:], restored[2:], strict=True):
            for tensor, kept in zip(old.old_logprobs or [], new.old_logprobs or [], strict=True):
                assert torch.equal(tensor, kept)


def test_what_was_measured_is_that_of_all_completions_drawn(policy: Policy, prompts: list[EncodedPrompt]) -> None:
    made, _ = draw(policy, prompts, lambda prompt, seed: DIFFERENT)
    assert made.metrics["rewards/letters/mean"] == made.metrics["reward"] == pytest.approx(2.0)
    tokens = [len(c.token_ids) for group in made.groups for c in group.completions]
    lengths = {"mean": sum(tokens) / len(tokens), "min": min(tokens), "max": max(tokens)}
    for name, expected in lengths.items():
        assert made.metrics[f"completions/{name}_length"] == pytest.approx(expected)
    assert made.metrics["completions/clipped_ratio"] == 0
    rewards = torch.cat([group.rewards for group in made.groups])
    assert made.metrics["reward_std"] == pytest.approx(rewards.std().item())
    assert made.metrics["frac_reward_zero_std"] == 0
    assert made.metrics["round_seconds"] > 0


def test_groups_survive_a_checkpoint(policy: Policy, prompts: list[EncodedPrompt]) -> None:
    reward = Failing(lambda prompt, completion: completion.text == "aa")
    made, _ = draw(policy, prompts, lambda prompt, seed: DIFFERENT, reward=reward)
    file = io.BytesIO()
    torch.save(made.state(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored = Round.from_state(state, {prompt.id: prompt for prompt in prompts}).groups
    for old, new in zip(made.groups, restored, strict=True):
        assert (new.prompt, new.completions) == (old.prompt, old.completions)
        assert new.rewards.tolist() == pytest.approx(old.rewards.tolist(), nan_ok=True)
        assert math.isnan(new.rewards_by_name["failing"][1])


def test_a_checkpoint_calls_things_as_it_always_has(prompts: list[EncodedPrompt]) -> None:
    before = {"token_ids": (5, 6), "logprobs": (-1.0, -2.0), "text": "aa", "finished": True, "policy_version": 3}
    completion = before | {"opened": ""}
    group = {
        "prompt": prompts[0].id,
        "completions": [completion],
        "rewards": torch.tensor([1.0]),
        "rewards_by_name": {"letters": torch.tensor([2.0])},
        "old_logprobs": None,
    }
    state = {"groups": [group], "metrics": {"reward": 1.0}}
    known = {prompts[0].id: prompts[0]}
    assert Round.from_state(state, known).state() == state
    assert Round.from_state({**state, "groups": [group | {"completions": [before]}]}, known).state() == state
    drawn = {"prompts": [prompts[0].id], "completions": [[completion]], "seconds": 1.5}
    assert drawn_state(restored_draw(drawn, known)) == drawn


def test_prompts_are_taken_as_they_are_needed(policy: Policy, prompts: list[EncodedPrompt]) -> None:
    supply = iter(list(islice(cycle(prompts), 9)))
    make_round(policy, ScriptedEngine(lambda p, s: DIFFERENT), RewardSum([Letters()]), supply, 4, SAMPLING, "s")
    assert len(list(supply)) == 5
