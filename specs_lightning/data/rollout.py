"""Rollouts as training data: rounds of completions by the current policy, handed out a step at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from functools import cached_property
from itertools import islice
from typing import Any, Literal

from specs_lightning.data.policy_data import PolicyDataModule, check_rows, rows_digest, shuffled
from specs_lightning.data.rounds import (
    DynamicSampling,
    Round,
    add_old_logprobs,
    draw,
    drawn_state,
    make_round,
    policy_lag,
    restored_draw,
)
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.errors import DataError, SettingsError, check_positive
from specs_lightning.groups import PLACE, EncodedPrompt, Group, GroupBatch, Prompt, prompt_digest
from specs_lightning.policy.dealing import idle_note
from specs_lightning.prompts.encoder import try_encode
from specs_lightning.rewards import AccuracyReward, FormatReward, Reward, RewardSum
from specs_lightning.rollout import SamplingSettings
from specs_lightning.rollout.truncation import truncation_of
from specs_lightning.system.ranks import gather


class RolloutDataModule(PolicyDataModule):
    """GRPO's data.

    Args:
        train: the prompts.
        rewards: score the completions; format and accuracy if not given.
        reward_weights: one for each reward; the paper's 0.5 (format) and 1 (accuracy) if neither is given.
        sampling: how completions are drawn; with `top_p`, `top_k` or `min_p` the objective's `mismatch` must correct.
        prompts_per_round: how many prompts one round answers.
        steps_per_round: how many optimizer steps are made of a round; after the first, the policy has moved on from
            the one that sampled, and the objective's clipping holds it near.
        rounds: how many rounds the run has; one pass over the prompts if not given.
        dynamic_sampling: replace groups whose completions all have the same reward.
        max_unscored_share: the run stops when more than this share of a round cannot be scored.
        prefetch_rounds: 1 has the next round drawn while this one is trained on, by an engine of its own (servers).
            Its policy is then one round old, which `objective.mismatch` corrects.
        **kwargs: those of every `PolicyDataModule`.
    """

    def __init__(
        self,
        train: PromptSource,
        rewards: list[Reward] | None = None,
        reward_weights: list[float] | None = None,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008  frozen
        prompts_per_round: int = 128,
        steps_per_round: int = 8,
        rounds: int | None = None,
        dynamic_sampling: DynamicSampling | None = None,
        max_unscored_share: float = 0.5,
        prefetch_rounds: Literal[0, 1] = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive(prompts_per_round=prompts_per_round, steps_per_round=steps_per_round, rounds=rounds)
        if prompts_per_round % steps_per_round:
            raise ValueError(
                f"prompts_per_round ({prompts_per_round}) must be a multiple of steps_per_round ({steps_per_round})"
            )
        if sampling.temperature == 0:
            raise ValueError("GRPO learns from differences between samples: sampling.temperature must be above 0")
        if rewards is None and reward_weights is None:
            reward_weights = [0.5, 1.0]
        self.rewards = RewardSum(
            rewards if rewards is not None else [FormatReward(), AccuracyReward()], reward_weights, max_unscored_share
        )
        for reward in self.rewards.rewards:
            if self.judge is not None:
                reward.use_judge(self.judge)
        names = [reward.name for reward in self.rewards.rewards]
        if dynamic_sampling is not None and dynamic_sampling.accuracy_range and "accuracy" not in names:
            raise ValueError(f"accuracy_range needs a reward named accuracy; there are: {', '.join(names)}")
        if prefetch_rounds and not self.engine.runs_beside_training:
            raise ValueError(
                f"prefetch_rounds needs an engine that samples while the policy trains (VLLMServers); "
                f"{type(self.engine).__name__} does not"
            )
        self.train = train
        self.prefetch_rounds = prefetch_rounds
        self.sampling = sampling
        self.prompts_per_round, self.steps_per_round, self.rounds = prompts_per_round, steps_per_round, rounds
        self.dynamic_sampling = dynamic_sampling
        self.prompts: list[Prompt] = []
        self.loader: RolloutLoader | None = None

    @property
    def prompts_per_step(self) -> int:
        return self.prompts_per_round // self.steps_per_round

    @property
    def steps_per_epoch(self) -> int:
        """All steps of the run: it has one epoch."""
        return self.steps_of(len(self.prompts))

    def steps_of(self, prompts: int) -> int:
        """How many steps a run makes of so many prompts."""
        return (self.rounds or max(1, prompts // self.prompts_per_round)) * self.steps_per_round

    def idle_note(self, processes: int) -> str | None:
        completions = self.prompts_per_step * self.sampling.completions_per_prompt
        return idle_note(completions, processes, "more data.prompts_per_round, or fewer data.steps_per_round")

    @property
    def groups(self) -> list[Group]:
        """Of the current round; none before the first."""
        return self.loader.round.groups if self.loader is not None and self.loader.round is not None else []

    @cached_property
    def digest(self) -> str:
        """Of all prompts, and of what rewards may know of them; taken once."""
        return rows_digest(self.prompts, _trained_on)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and (self.attached_trainer.max_epochs or 1) > 1:
            raise DataError("rollouts are one long epoch: set data.rounds instead of trainer.max_epochs")
        if stage == "fit" and self.sampling.truncated and not self.module.needs_old_logprobs:
            raise SettingsError(
                "data.sampling.top_p, top_k and min_p draw from a part of the policy's distribution, and what is drawn "
                "from it would be taken for samples of the whole: set model.objective.mismatch.kind to truncated, "
                "which weighs each token by the share that was kept, or leave them out"
            )
        if stage == "fit" and not self.prompts:
            self.prompts = load_prompts(self.train, self.set_aside)

    def train_dataloader(self) -> RolloutLoader:
        self.loader = RolloutLoader(self)
        return self.loader

    def teardown(self, stage: str) -> None:
        if self.loader is not None:
            self.loader.close()
        super().teardown(stage)
        self.rewards.close()


def _trained_on(prompt: Prompt) -> str:
    """A digest of what is asked and of what its answers are scored by; not of the prompt's place."""
    metadata = {name: str(prompt.metadata[name]) for name in sorted(prompt.metadata.keys() - PLACE)}
    gold = prompt.answer, prompt.answer_type, prompt.answer_format, prompt.choices, prompt.precision
    return prompt_digest(prompt, *gold, metadata)


class RolloutLoader:
    """One loader for the whole run. It has a length, so that Lightning asks for no batch before it trains on the last.

    Its state holds the current round, so that a run goes on in the middle of it, and the one that is drawn ahead.
    """

    def __init__(self, data: RolloutDataModule) -> None:
        self.data = data
        self.taken = 0
        """Batches handed out; a checkpoint has those that were trained on."""
        self.round: Round | None = None
        self.round_number = -1
        self.prompts_used = 0
        self.ahead: Future[Round] | None = None
        """The next round's completions, on their way while this one is trained on."""
        self.used_before_ahead = 0
        self.background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rollouts")
        self.unusable: set[int] = set()
        """Prompts that could not be encoded, by their place in the data."""

    def __len__(self) -> int:
        return self.data.steps_per_epoch

    def __iter__(self) -> Iterator[GroupBatch]:
        data = self.data
        per_step = data.prompts_per_step
        while self.taken < len(self):
            number, step = divmod(self.taken, data.steps_per_round)
            if self.round is None or number != self.round_number:
                self.round, self.round_number = self._next_round(number), number
            groups = self.round.groups[step * per_step : (step + 1) * per_step]
            batch = GroupBatch.from_groups(
                groups,
                reward_weights=tuple(data.rewards.weights),
                temperature=data.sampling.temperature,
                truncation=truncation_of(data.sampling),
                fresh=step == 0,
                metrics={
                    **(self.round.metrics if step == 0 else {}),
                    "policy_lag": policy_lag(groups, data.policy.version),
                },
            )
            self.taken += 1
            yield batch

    def close(self) -> None:
        """Do not wait for what is drawn ahead."""
        self.background.shutdown(wait=False, cancel_futures=True)

    def state_dict(self) -> dict[str, Any]:
        """Waits for what is drawn ahead: the policy that draws it will not be there any more."""
        failed = any(gather(self.ahead is not None and self.ahead.exception() is not None))
        ahead = None if self.ahead is None or failed else self.ahead.result()
        return {
            "taken": self.data.module.steps,
            "content": self.data.digest,
            "prompts_used": self.used_before_ahead if failed else self.prompts_used,
            "round": self.round.state() if self.round else None,
            "round_number": self.round_number,
            "ahead": drawn_state(ahead) if ahead else None,
            "unusable": sorted(self.unusable),
            "set_aside": [list(astuple(row)) for row in self.data.set_aside.rows],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        given = (prompt.id for prompt in self.data.prompts)
        check_rows(state, "prompts", self.data.digest, given, self.data.train.path)
        self.taken, self.prompts_used = state["taken"], state["prompts_used"]
        self.round_number = state["round_number"]
        self.unusable = set(state["unusable"])
        self.data.set_aside.restore(state["set_aside"])
        current, ahead = state["round"], state["ahead"]
        ids = {saved["prompt"] for saved in current["groups"]} if current else set()
        ids |= set(ahead["prompts"] if ahead else ())
        encoded = {prompt.id: self.data.encoder.encode(prompt) for prompt in self.data.prompts if prompt.id in ids}
        if current:
            self.round = Round.from_state(current, encoded)
        if ahead:
            self.ahead = Future()
            self.ahead.set_result(restored_draw(ahead, encoded))

    def _next_round(self, number: int) -> Round:
        ahead, self.ahead = self.ahead, None
        used = self.prompts_used if ahead is None else self.used_before_ahead
        try:
            made = self._make_round(number, ahead)
        except BaseException:
            self.prompts_used = used  # a run that goes on from here asks the same prompts
            raise
        data = self.data
        if data.prefetch_rounds and (number + 1) * data.steps_per_round < len(self):
            self.used_before_ahead = self.prompts_used
            asked = list(islice(self._prompts(), data.prompts_per_round))
            task = (data.engine, asked, data.sampling, self._seed(number + 1), data.policy.version)
            self.ahead = self.background.submit(draw, *task)
        return made

    def _make_round(self, number: int, ahead: Future[Round] | None) -> Round:
        data = self.data
        # In the precision of the steps, or the embedded engine's log-probabilities would not be the trainer's.
        with data.module.precision():
            made = make_round(
                data.policy,
                data.engine,
                data.rewards,
                self._prompts(),
                data.prompts_per_round,
                data.sampling,
                self._seed(number),
                data.dynamic_sampling,
                ahead,
            )
            if data.module.needs_old_logprobs:
                # The first step needs none: the policy is then still the one that the round began with.
                later = made.groups[data.prompts_per_step :]
                add_old_logprobs(data.policy, later, data.sampling.temperature, data.module.micro_batch_tokens)
        return made

    def _seed(self, number: int) -> str:
        return f"{self.data.seed}-{number}"

    def _prompts(self) -> Iterator[EncodedPrompt]:
        """Encoded prompts without end, each pass in another order; what cannot be encoded is set aside, once."""
        prompts = self.data.prompts
        while len(self.unusable) < len(prompts):
            epoch, place = divmod(self.prompts_used, len(prompts))
            index = shuffled(len(prompts), self.data.seed, epoch)[place]
            self.prompts_used += 1
            if index in self.unusable:
                continue
            encoded = try_encode(self.data.encoder, prompts[index], self.data.set_aside)
            if encoded is None:
                self.unusable.add(index)
            else:
                yield encoded
        raise DataError(f"{self.data.train.path}: no prompt can be used\n{self.data.set_aside.summary()}")
