"""Rounds as training data: one loader for the whole run, nothing fetched ahead, resumable in the middle of a round."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import (
    Curve,
    Failing,
    Letters,
    ScriptedEngine,
    adam,
    small_trainer,
    trained_weights,
    write_prompt_file,
)
from lightning.pytorch.callbacks import ModelCheckpoint

from specs_lightning.data import RolloutDataModule
from specs_lightning.data.policy_data import shuffled
from specs_lightning.data.rounds import DynamicSampling
from specs_lightning.data.sources import PromptSource
from specs_lightning.data.tables import DataError
from specs_lightning.groups import Completion, GroupBatch, Prompt
from specs_lightning.modules import GRPOModule, ScheduleSettings
from specs_lightning.objectives import GRPO, MismatchCorrection
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.rewards import AccuracyReward, FormatReward
from specs_lightning.rollout import EngineError, HFEngine, SamplingSettings

DIFFERENT = ["a", "aa", "aaa"]
CORRECTED = GRPO(mismatch=MismatchCorrection("truncated"))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSource:
    return PromptSource(str(write_prompt_file(tmp_path_factory.mktemp("prompts"))))


def rollouts(prompts: PromptSource, **settings: Any) -> RolloutDataModule:
    defaults: dict[str, Any] = {
        "rewards": [Letters()],
        "sampling": SamplingSettings(3, 6),
        "prompts_per_round": 4,
        "steps_per_round": 2,
        "rounds": 3,
    }
    return RolloutDataModule(prompts, **defaults | settings)


class Watched(GRPOModule):
    """Keeps the batches that it trains on, and the policy's version at each."""

    def __init__(self, model: Path, objective: GRPO = GRPO()) -> None:  # noqa: B008  frozen
        schedule = ScheduleSettings("constant", 0.0)
        super().__init__(PolicySettings(str(model)), objective, optimizer=adam, schedule=schedule)
        self.batches: list[GroupBatch] = []
        self.versions: list[int] = []

    def training_step(self, batch: GroupBatch, batch_idx: int) -> None:
        self.batches.append(batch)
        self.versions.append(self.policy.version)
        super().training_step(batch, batch_idx)

    @property
    def prompt_ids(self) -> list[list[str]]:
        return [[prompt.id for prompt in batch.prompts] for batch in self.batches]


class Versions(HFEngine):
    """Notes which version each round is sampled with."""

    def __init__(self) -> None:
        super().__init__()
        self.sampled: list[int] = []

    def generate(self, *args: Any) -> Any:
        completions = super().generate(*args)
        self.sampled += {c.policy_version for group in completions for c in group}
        return completions


def test_nothing_is_fetched_ahead(tiny_model_path: Path, prompts: PromptSource, tmp_path: Path) -> None:
    """Each round is sampled by the policy as the last step left it."""
    module, engine = Watched(tiny_model_path), Versions()
    data = rollouts(prompts, engine=engine)
    trainer = small_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    assert trainer.num_training_batches == data.steps_per_epoch == 6
    assert engine.sampled == [0, 2, 4]
    assert module.versions == [0, 1, 2, 3, 4, 5]
    assert [batch.fresh for batch in module.batches] == [True, False] * 3
    assert ["reward" in batch.metrics for batch in module.batches] == [True, False] * 3
    assert [batch.metrics["policy_lag"] for batch in module.batches] == [0, 1] * 3


def test_a_round_is_handed_out_in_steps_of_whole_groups(
    tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
) -> None:
    module = Watched(tiny_model_path)
    small_trainer(tmp_path).fit(module, datamodule=rollouts(prompts, seed=5))
    order = shuffled(8, 5, 0) + shuffled(8, 5, 1)[:4]
    asked = [f"p{i}" for i in order]
    assert module.prompt_ids == [asked[i : i + 2] for i in range(0, 12, 2)]
    assert all(batch.group_sizes == [3, 3] for batch in module.batches)


def test_the_same_seed_gives_the_same_run(tiny_model_path: Path, prompts: PromptSource, tmp_path: Path) -> None:
    def run(seed: int) -> tuple[list[float], torch.Tensor]:
        curve, module = Curve(), Watched(tiny_model_path)
        torch.seed()  # the global state plays no part
        small_trainer(tmp_path, curve).fit(module, datamodule=rollouts(prompts, seed=seed))
        return curve["loss"], trained_weights(module)

    (losses, weights), (again, weights_again), (other, _) = run(1), run(1), run(2)
    assert losses == again and torch.equal(weights, weights_again)
    assert losses != other


@pytest.mark.parametrize(("size", "steps"), [(4, 4), (2, 8), (6, 2), (64, 2)])
def test_one_pass_over_the_prompts_where_no_rounds_are_given(
    tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, size: int, steps: int
) -> None:
    trainer = small_trainer(tmp_path, max_steps=1)
    engine = ScriptedEngine(lambda prompt, seed: DIFFERENT)
    data = rollouts(prompts, prompts_per_round=size, rounds=None, engine=engine)
    trainer.fit(Watched(tiny_model_path), datamodule=data)
    assert trainer.num_training_batches == steps


def test_more_than_one_epoch_is_refused(tiny_model_path: Path, prompts: PromptSource, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set data\.rounds instead of trainer\.max_epochs"):
        small_trainer(tmp_path, max_epochs=2).fit(Watched(tiny_model_path), datamodule=rollouts(prompts))


def test_a_round_that_does_not_divide_into_steps_is_refused(prompts: PromptSource) -> None:
    with pytest.raises(ValueError, match=r"prompts_per_round \(5\) must be a multiple of steps_per_round \(2\)"):
        rollouts(prompts, prompts_per_round=5)


def test_the_papers_weights_are_the_default(prompts: PromptSource) -> None:
    rewards = rollouts(prompts, rewards=None).rewards
    assert [type(reward) for reward in rewards.rewards] == [FormatReward, AccuracyReward]
    assert rewards.weights == [0.5, 1.0]


class TestResume:
    @pytest.mark.parametrize("objective", [GRPO(), CORRECTED], ids=["plain", "corrected"])
    @pytest.mark.parametrize("stop", [1, 2, 3])
    def test_a_run_goes_on_as_if_it_had_not_stopped(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, stop: int, objective: GRPO
    ) -> None:
        """After the first step of a round, at its end, and in the middle of the next."""
        whole, first = Curve(), Watched(tiny_model_path, objective)
        keeper = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        small_trainer(tmp_path, whole, keeper, enable_checkpointing=True).fit(first, datamodule=rollouts(prompts))

        resumed, module, engine = Curve(), Watched(tiny_model_path, objective), Versions()
        checkpoint = tmp_path / f"step={stop}.ckpt"
        small_trainer(tmp_path, resumed).fit(module, datamodule=rollouts(prompts, engine=engine), ckpt_path=checkpoint)
        assert module.prompt_ids == first.prompt_ids[stop:]
        for batch, expected in zip(module.batches, first.batches[stop:], strict=True):
            assert torch.equal(batch.completion_ids_NT, expected.completion_ids_NT)
            assert torch.equal(batch.rewards_N, expected.rewards_N)  # type: ignore[arg-type]
            assert batch.fresh == expected.fresh
            if objective is CORRECTED and not batch.fresh:
                assert torch.equal(batch.old_logprobs_NT, expected.old_logprobs_NT)  # type: ignore[arg-type]
        assert len(engine.sampled) == (2 if stop < 3 else 1)
        assert resumed["loss"] == whole["loss"][stop:]
        assert torch.equal(trained_weights(module), trained_weights(first))

    @pytest.mark.parametrize("stop", [1, 2, 3])
    def test_so_does_one_whose_rounds_have_prompts_twice(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, stop: int
    ) -> None:
        """Of 8 prompts a round of 12 has four twice, with other completions the second time."""
        first, resumed = Watched(tiny_model_path), Watched(tiny_model_path)
        keeper = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        many = {"prompts_per_round": 12, "steps_per_round": 2, "rounds": 2}
        small_trainer(tmp_path, keeper, enable_checkpointing=True).fit(first, datamodule=rollouts(prompts, **many))
        for start in (0, 2):
            by_prompt: dict[str, list[Any]] = {}
            for batch in first.batches[start : start + 2]:
                for g, prompt in enumerate(batch.prompts):
                    by_prompt.setdefault(prompt.id, []).append(batch.completion_ids_NT[batch.group_N == g].tolist())
            twice = [drawn for drawn in by_prompt.values() if len(drawn) == 2]
            assert len(twice) == 4 and all(drawn[0] != drawn[1] for drawn in twice)
        checkpoint = tmp_path / f"step={stop}.ckpt"
        small_trainer(tmp_path).fit(resumed, datamodule=rollouts(prompts, **many), ckpt_path=checkpoint)
        for batch, expected in zip(resumed.batches, first.batches[stop:], strict=True):
            assert torch.equal(batch.completion_ids_NT, expected.completion_ids_NT)
        assert torch.equal(trained_weights(resumed), trained_weights(first))

    def test_the_loader_alone_gives_the_same_remaining_batches(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        module = Watched(tiny_model_path)
        data = rollouts(prompts, engine=ScriptedEngine(lambda prompt, seed: [prompt.id, seed, "aa"]))
        small_trainer(tmp_path).fit(module, datamodule=data)

        def remaining(batches: Iterator[GroupBatch]) -> list[Any]:
            return [(batch.completion_ids_NT.tolist(), [p.id for p in batch.prompts]) for batch in batches]

        loader = data.train_dataloader()
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        module.steps = 3  # what was trained on is what counts
        state = loader.state_dict()
        expected = remaining(batches)
        assert len(expected) == 3
        other = data.train_dataloader()
        other.load_state_dict(state)
        assert remaining(iter(other)) == expected


class Server(HFEngine):
    """Has weights of its own, as a server has. One of its calls may fail, and notes how it is called are kept."""

    runs_beside_training = True

    def __init__(self, failing: int | None = None) -> None:
        super().__init__()
        self.failing = failing
        self.threads: list[str] = []

    def sync(self, policy: Policy) -> None:
        super().sync(copy.deepcopy(policy))

    def generate(self, *args: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        if len(self.threads) - 1 == self.failing:
            raise EngineError("the last server is gone")
        return super().generate(*args)


class TestPrefetch:
    def test_the_next_round_is_drawn_while_this_one_is_trained_on(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        module, curve, engine = Watched(tiny_model_path, CORRECTED), Curve(), Server()
        small_trainer(tmp_path, curve).fit(module, datamodule=rollouts(prompts, engine=engine, prefetch_rounds=1))
        assert [name.split("_")[0] for name in engine.threads] == ["MainThread", "rollouts", "rollouts"]
        assert [step["train/policy_lag"] for step in curve.steps[::2]] == [0, 2, 2]
        asked = shuffled(8, 0, 0) + shuffled(8, 0, 1)[:4]
        assert [i for step in module.prompt_ids for i in step] == [f"p{i}" for i in asked]

    def test_its_completions_are_of_the_policy_one_round_ago(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        """So the second round is the same as the first policy would give, and the first round is not touched."""
        runs = []
        for rate in (1e-2, 0.0):
            module = Watched(tiny_model_path, CORRECTED)
            module.optimizer_callable = lambda p, rate=rate: torch.optim.AdamW(p, lr=rate)
            data = rollouts(prompts, engine=Server(), prefetch_rounds=1)
            small_trainer(tmp_path).fit(module, datamodule=data)
            runs.append([batch.completion_ids_NT.tolist() for batch in module.batches])
        assert runs[0][:4] == runs[1][:4] and runs[0][4:] != runs[1][4:]

    @pytest.mark.parametrize("stop", [1, 2, 3])
    def test_a_run_goes_on_as_if_it_had_not_stopped(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, stop: int
    ) -> None:
        whole, first = Curve(), Watched(tiny_model_path, CORRECTED)
        keeper = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        data = rollouts(prompts, engine=Server(), prefetch_rounds=1)
        small_trainer(tmp_path, whole, keeper, enable_checkpointing=True).fit(first, datamodule=data)

        resumed, module = Curve(), Watched(tiny_model_path, CORRECTED)
        data = rollouts(prompts, engine=Server(), prefetch_rounds=1)
        small_trainer(tmp_path, resumed).fit(module, datamodule=data, ckpt_path=tmp_path / f"step={stop}.ckpt")
        assert resumed["loss"] == whole["loss"][stop:]
        assert module.prompt_ids == first.prompt_ids[stop:] and module.versions == first.versions[stop:]
        assert torch.equal(trained_weights(module), trained_weights(first))

    def test_an_engine_beside_the_training_is_needed(self, prompts: PromptSource) -> None:
        with pytest.raises(ValueError, match=r"prefetch_rounds needs an engine.*HFEngine does not"):
            rollouts(prompts, prefetch_rounds=1)


@pytest.mark.parametrize(("prefetch", "goes_on_exactly"), [(0, True), (1, False)])
def test_when_the_engine_fails_the_run_stops_with_its_state_saved(
    tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, prefetch: int, goes_on_exactly: bool
) -> None:
    """And goes on with the same prompts. What was being drawn ahead is drawn again, then by the current policy."""
    whole, first = Curve(), Watched(tiny_model_path, CORRECTED)
    data = rollouts(prompts, engine=Server(), prefetch_rounds=prefetch)
    small_trainer(tmp_path, whole).fit(first, datamodule=data)

    keeper = ModelCheckpoint(tmp_path, save_last=True, save_on_exception=True)
    data = rollouts(prompts, engine=Server(failing=2), prefetch_rounds=prefetch)
    with pytest.raises(EngineError, match="the last server is gone"):
        small_trainer(tmp_path, keeper, enable_checkpointing=True).fit(
            Watched(tiny_model_path, CORRECTED), datamodule=data
        )
    resumed, module = Curve(), Watched(tiny_model_path, CORRECTED)
    data = rollouts(prompts, engine=Server(), prefetch_rounds=prefetch)
    small_trainer(tmp_path, resumed).fit(module, datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert len(resumed.steps) == 2
    assert module.prompt_ids == first.prompt_ids[4:]
    assert (resumed["loss"] == whole["loss"][4:]) == goes_on_exactly


class Mistaken(HFEngine):
    """Reports log-probabilities that are off by 0.3."""

    def generate(self, *args: Any) -> Any:
        def off(completion: Completion) -> Completion:
            return replace(completion, logprobs=tuple(logprob + 0.3 for logprob in completion.logprobs))

        return [[off(completion) for completion in group] for group in super().generate(*args)]


class TestOldLogprobs:
    def test_they_are_those_of_the_policy_at_the_start_of_the_round(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        class Compares(Watched):
            def training_step(self, batch: GroupBatch, batch_idx: int) -> None:
                if batch.fresh:
                    self.start = copy.deepcopy(self.policy)
                    assert batch.old_logprobs_NT is None
                else:
                    with torch.no_grad():
                        expected_NT = self.start.token_logprobs(batch, batch.temperature).logprobs
                        now_NT = self.policy.token_logprobs(batch, batch.temperature).logprobs
                    torch.testing.assert_close(batch.old_logprobs_NT, expected_NT, atol=1e-6, rtol=0)
                    assert (now_NT - expected_NT).abs().max() > 1e-3
                    assert (batch.sampler_logprobs_NT - expected_NT)[batch.mask_NT].mean() == pytest.approx(
                        0.3, abs=1e-4
                    )
                super().training_step(batch, batch_idx)

        module, curve = Compares(tiny_model_path, CORRECTED), Curve()
        sampling = SamplingSettings(3, 6, temperature=0.8)
        data = rollouts(prompts, prompts_per_round=6, steps_per_round=3, engine=Mistaken(), sampling=sampling)
        small_trainer(tmp_path, curve).fit(module, datamodule=data)
        assert [batch.fresh for batch in module.batches] == [True, False, False] * 3
        assert curve["mismatch/mean"] == pytest.approx([0.3] * 9, abs=1e-4)

    def test_they_are_in_the_steps_precision(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        """At a rate of 0 the policy stays, and the ratio of every step is exactly 1."""
        for precision in ("32-true", "bf16-mixed"):
            module, curve = Watched(tiny_model_path, CORRECTED), Curve()
            module.optimizer_callable = lambda p: torch.optim.SGD(p, lr=0.0)
            small_trainer(tmp_path, curve, precision=precision).fit(module, datamodule=rollouts(prompts))
            assert curve["approximate_kl"] == [0] * 6

    @pytest.mark.parametrize(("steps", "objective"), [(1, CORRECTED), (2, GRPO())], ids=["one step", "uncorrected"])
    def test_where_nothing_needs_them_no_forward_pass_is_spent_on_them(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, steps: int, objective: GRPO
    ) -> None:
        class Counts(Watched):
            without_gradient = 0

            def configure_model(self) -> None:
                super().configure_model()
                self.policy.model.base_model.register_forward_hook(self.count_forward)

            def count_forward(self, *unused: Any) -> None:
                self.without_gradient += not torch.is_grad_enabled()

        module = Counts(tiny_model_path, objective)
        engine = ScriptedEngine(lambda prompt, seed: DIFFERENT)  # runs no model
        small_trainer(tmp_path).fit(module, datamodule=rollouts(prompts, steps_per_round=steps, engine=engine))
        assert module.without_gradient == 0
        assert all(batch.old_logprobs_NT is None for batch in module.batches)


class TestUnusablePrompts:
    def test_they_are_set_aside_once_and_replaced(self, tiny_model_path: Path, tmp_path: Path) -> None:
        file = write_prompt_file(tmp_path)
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows[1]["question"] = rows[4]["question"] = "How many things are there? " * 40
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        module, curve = Watched(tiny_model_path), Curve()
        data = rollouts(PromptSource(str(file)), rounds=6, max_prompt_tokens=150)
        small_trainer(tmp_path, curve).fit(module, datamodule=data)
        used = [prompt_id for ids in module.prompt_ids for prompt_id in ids]
        assert len(used) == 24
        assert set(used) == {"p0", "p2", "p3", "p5", "p6", "p7"}
        assert [used.count(name) for name in sorted(set(used))] == [4] * 6
        written = [json.loads(line) for line in (tmp_path / "set_aside.jsonl").read_text().splitlines()]
        assert sorted((row["row"], row["reason"].partition(":")[0]) for row in written) == [
            (2, "prompt longer than 150 tokens"),
            (5, "prompt longer than 150 tokens"),
        ]
        assert data.set_aside.counts() == {(str(file), "prompt longer than 150 tokens"): 2}

    def test_where_none_can_be_used_the_error_says_why(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        data = rollouts(prompts, max_prompt_tokens=5)
        with pytest.raises(DataError, match=r"no prompt can be used[\s\S]*8 x prompt longer than 5 tokens"):
            small_trainer(tmp_path).fit(Watched(tiny_model_path), datamodule=data)


def test_a_reward_that_raises_costs_its_completions_and_not_the_run(
    tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
) -> None:
    def fails(prompt: Prompt, completion: Any) -> bool:
        return completion.text == "aa"

    module, curve = Watched(tiny_model_path), Curve()
    data = rollouts(prompts, rewards=[Failing(fails)], engine=ScriptedEngine(lambda prompt, seed: DIFFERENT))
    small_trainer(tmp_path, curve).fit(module, datamodule=data)
    assert len(curve.steps) == 6
    assert curve["unscored"][0] == pytest.approx(1 / 3)
    assert all(torch.isnan(batch.rewards_N).tolist() == [False, True, False] * 2 for batch in module.batches)  # type: ignore[arg-type]


def test_an_accuracy_range_without_an_accuracy_reward_is_refused_at_once(prompts: PromptSource) -> None:
    with pytest.raises(ValueError, match="accuracy_range needs a reward named accuracy"):
        rollouts(prompts, dynamic_sampling=DynamicSampling((0.1, 0.9)))
