"""GRPO, trained for a few real steps on the tiny model's own samples."""

from __future__ import annotations

import logging
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
    sgd,
    small_trainer,
    trained_weights,
    write_prompt_file,
)
from helpers.tiny_policies import relative_difference, sharp_policy
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import SingleDeviceStrategy

from specs_lightning.data import RolloutDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.errors import SettingsError
from specs_lightning.groups import Completion, Prompt
from specs_lightning.modules import GRPOModule, ScheduleSettings
from specs_lightning.objectives import CISPO, GRPO, BatchScaled, MismatchCorrection, PerReward
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.rollout import HFEngine, SamplingSettings

CONSTANT = ScheduleSettings(name="constant", warmup_share=0.0)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSource:
    return PromptSource(str(write_prompt_file(tmp_path_factory.mktemp("prompts"))))


def rollouts(prompts: PromptSource, **settings: Any) -> RolloutDataModule:
    defaults: dict[str, Any] = {
        "rewards": [Letters()],
        "sampling": SamplingSettings(4, 8),
        "prompts_per_round": 4,
        "steps_per_round": 2,
        "rounds": 2,
    }
    return RolloutDataModule(prompts, **defaults | settings)


class Mistaken(HFEngine):
    """Reports every second token of a completion as likelier than it is: by these many nats, round by round."""

    def __init__(self, errors: list[float]) -> None:
        super().__init__()
        self.errors = iter(errors)

    def generate(self, *args: Any) -> Any:
        error = next(self.errors)

        def off(completion: Completion) -> Completion:
            logprobs = (logprob + error * (t % 2) for t, logprob in enumerate(completion.logprobs))
            return replace(completion, logprobs=tuple(logprobs))

        return [[off(completion) for completion in group] for group in super().generate(*args)]


class Logged(Logger):
    """What the loggers are told, step by step."""

    name, version = "logged", 0

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.steps.append(metrics)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def unfinished() -> ScriptedEngine:
    return ScriptedEngine(lambda prompt, seed: ["a", "aa", "aaa", "b"], finished=False)


@pytest.mark.parametrize(
    "objective",
    [
        GRPO(),
        GRPO(aggregation="sequence", mask_truncated=True),
        GRPO(aggregation="constant", constant_length=8, kl_coefficient=0.1),
        GRPO(mismatch=MismatchCorrection("truncated", "sequence")),
        GRPO(surrogate=CISPO(), advantages=BatchScaled(), entropy_coefficient=0.1),
        GRPO(advantages=PerReward(), aggregation="sequence"),
    ],
    ids=["token", "sequence", "constant", "mismatch corrected", "batch-scaled, with entropy bonus", "per reward"],
)
def test_a_step_does_not_depend_on_the_size_of_its_micro_batches(
    tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, objective: GRPO
) -> None:
    sampling = SamplingSettings(6, 60) if objective.mask_truncated else SamplingSettings(4, 8)
    reward = Failing(lambda prompt, completion: len(completion.text) % 5 == 0)
    moved, curves = [], []
    for max_tokens in (1, 300, 100_000):
        module = GRPOModule(
            PolicySettings(str(tiny_model_path)),
            objective,
            optimizer=sgd,
            schedule=CONSTANT,
            max_tokens_per_micro_batch=max_tokens,
            max_grad_norm=1e9,
        )
        module.configure_model()
        start = trained_weights(module)
        curves.append(Curve())
        data = rollouts(
            prompts,
            rewards=[reward],
            sampling=sampling,
            steps_per_round=1,
            max_unscored_share=1.0,
            engine=Mistaken([0.2]),
        )
        small_trainer(tmp_path, curves[-1], max_steps=1).fit(module, datamodule=data)
        moved.append(trained_weights(module) - start)
    assert 0 < curves[-1]["unscored"][0] < 1
    assert moved[-1].norm() > 0
    for other, curve in zip(moved[:-1], curves[:-1], strict=True):
        assert relative_difference(other, moved[-1]) <= 1e-5
        measured, expected = ({k: v for k, v in c.steps[0].items() if "seconds" not in k} for c in (curve, curves[-1]))
        assert measured == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_every_step_logs_what_happened(tiny_model_path: Path, prompts: PromptSource, tmp_path: Path) -> None:
    curve = Curve()
    module = GRPOModule(PolicySettings(str(tiny_model_path)), optimizer=adam, schedule=CONSTANT)
    small_trainer(tmp_path, curve).fit(module, datamodule=rollouts(prompts))
    assert len(curve.steps) == 4
    of_steps = {f"train/{name}" for name in ("loss", "entropy", "grad_norm", "lr")}
    lengths = {f"train/completions/{which}" for which in ("mean_length", "min_length", "max_length", "clipped_ratio")}
    clipped = {f"train/clip_ratio/{which}_mean" for which in ("low", "high", "region")}
    of_rewards = {f"train/{name}" for name in ("reward", "reward_std", "rewards/letters/mean", "frac_reward_zero_std")}
    assert of_steps | of_rewards | lengths | clipped <= set(curve.steps[0])
    assert curve["reward/letters"] == curve["rewards/letters/mean"]  # for monitors of earlier configurations
    # The engine is the policy itself: what it reports is what training finds.
    assert max(curve["mismatch/max"]) < 1e-5
    assert curve["mismatch/effective_sample_size"] == pytest.approx([1] * 4)


@pytest.mark.parametrize("lora", [None, LoRASettings(rank=4)], ids=["second model", "adapter switched off"])
def test_a_kl_term_is_zero_at_the_start_and_grows(
    tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, lora: LoRASettings | None
) -> None:
    curve = Curve()
    policy = PolicySettings(str(tiny_model_path), lora=lora)
    module = GRPOModule(policy, GRPO(kl_coefficient=0.1), optimizer=adam, schedule=CONSTANT)
    assert module.keeps_second_model is (lora is None)
    small_trainer(tmp_path, curve).fit(module, datamodule=rollouts(prompts))
    assert curve["kl"][0] == pytest.approx(0, abs=1e-7)
    assert curve["kl"][-1] > 1e-6
    assert not [name for name in module.state_dict() if not name.startswith("policy.")]


def test_engine_and_trainer_agree_in_reduced_precision(
    tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
) -> None:
    curves = []
    model = str(sharp_policy(tiny_model_path).save(tmp_path / "sharp"))
    for precision in ("32-true", "bf16-mixed"):
        curves.append(Curve())
        module = GRPOModule(PolicySettings(model), optimizer=adam, schedule=CONSTANT)
        trainer = small_trainer(tmp_path, curves[-1], max_steps=1, precision=precision)
        trainer.fit(module, datamodule=rollouts(prompts, steps_per_round=1))
    assert curves[0]["mismatch/mean"][0] < 1e-5
    assert curves[1]["mismatch/mean"][0] < 5e-3


class TestStepsOfWhichNothingCounts:
    def fit(
        self, model: Path, prompts: PromptSource, folder: Path, objective: GRPO, **data: Any
    ) -> tuple[GRPOModule, list[dict[str, float]], torch.Tensor]:
        """The module, what each step told the loggers, and the weights before."""
        module = GRPOModule(PolicySettings(str(model)), objective, optimizer=adam, schedule=CONSTANT)
        module.configure_model()
        before, logger = trained_weights(module), Logged()
        trainer = small_trainer(folder, logger=logger, log_every_n_steps=1)
        trainer.fit(module, datamodule=rollouts(prompts, max_unscored_share=1.0, **data))
        return module, logger.steps, before

    @pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
    @pytest.mark.parametrize("why", ["cut off", "unscored"])
    def test_they_are_skipped_and_said_so(
        self,
        tiny_model_path: Path,
        prompts: PromptSource,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        why: str,
        aggregation: Any,
    ) -> None:
        length = 8 if aggregation == "constant" else None
        cut = why == "cut off"
        objective = GRPO(mask_truncated=cut, aggregation=aggregation, constant_length=length)
        reward = Letters() if cut else Failing(lambda prompt, completion: True)
        with caplog.at_level(logging.WARNING):
            module, steps, before = self.fit(
                tiny_model_path, prompts, tmp_path, objective, rewards=[reward], engine=unfinished()
            )
        assert torch.equal(trained_weights(module), before)
        assert module.policy.version == 0 and module.steps == 4
        assert [step["train/skipped"] for step in steps] == [1] * 4
        assert not any("loss" in name or "grad_norm" in name for step in steps for name in step)
        told = [record.message for record in caplog.records if "left out" in record.message]
        assert [message.split(":")[0] for message in told] == [f"step {n} left out" for n in range(4)]
        assert all("every completion is masked, or could not be scored" in message for message in told)

    def test_the_others_are_trained_on(self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path) -> None:
        """The second and third of four steps have no score."""
        seen: list[str] = []

        def fails(prompt: Prompt, completion: Completion) -> bool:
            if prompt.id not in seen:
                seen.append(prompt.id)
            return 2 <= seen.index(prompt.id) < 6

        module, steps, before = self.fit(tiny_model_path, prompts, tmp_path, GRPO(), rewards=[Failing(fails)])
        assert [step["train/skipped"] for step in steps] == [0, 1, 1, 0]
        assert ["train/loss" in step for step in steps] == [True, False, False, True]
        assert module.policy.version == 2 and not torch.equal(trained_weights(module), before)
        assert trained_weights(module).isfinite().all()

    def test_too_many_in_a_row_end_the_run_with_what_to_do(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        with pytest.raises(RuntimeError, match=r"10 steps in a row .* could not be scored: .*max_tokens"):
            self.fit(tiny_model_path, prompts, tmp_path, GRPO(mask_truncated=True), engine=unfinished(), rounds=9)


class TestMismatch:
    def fit(
        self, model: Path, prompts: PromptSource, folder: Path, errors: list[float], **correction: Any
    ) -> tuple[Curve, GRPOModule]:
        """A step for each error of the engine."""
        curve, objective = Curve(), GRPO(mismatch=MismatchCorrection(**correction))
        module = GRPOModule(PolicySettings(str(model)), objective, optimizer=adam, schedule=CONSTANT)
        data = rollouts(prompts, steps_per_round=1, rounds=len(errors), engine=Mistaken(errors))
        small_trainer(folder, curve).fit(module, datamodule=data)
        return curve, module

    def test_it_is_measured_whether_it_is_corrected_or_not(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        for kind in ("none", "truncated", "masked"):
            curve, _ = self.fit(tiny_model_path, prompts, tmp_path, [0.0, 0.2], kind=kind)
            assert curve["mismatch/mean"] == pytest.approx([0, 0.1], abs=2e-3)  # about every second token is wrong
            assert curve["mismatch/max"] == pytest.approx([0, 0.2], abs=1e-5)
            assert curve["mismatch/effective_sample_size"] == pytest.approx([1, 0.990], abs=1e-3)

    def test_two_ranks_with_the_same_completions_measure_what_one_measures_and_each_adds_its_share_of_the_loss(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone, _ = self.fit(tiny_model_path, prompts, tmp_path, [0.3], kind="truncated")

        def of_two(strategy: Any, value: torch.Tensor, reduce_op: str) -> torch.Tensor:
            return value * {"sum": 2, "max": 1}[reduce_op]

        monkeypatch.setattr(SingleDeviceStrategy, "reduce", of_two)
        together, _ = self.fit(tiny_model_path, prompts, tmp_path, [0.3], kind="truncated")
        names = [name for name in alone.steps[0] if not name.endswith(("_seconds", "grad_norm", "loss"))]
        assert {"train/mismatch/max", "train/mismatch/effective_sample_size"} <= set(names)
        assert together["loss"][0] == pytest.approx(2 * alone["loss"][0]) != 0
        for name in names:
            assert together.steps[0][name] == pytest.approx(alone.steps[0][name]), name

    def test_where_engine_and_trainer_agree_a_correction_changes_nothing(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path
    ) -> None:
        _, plain = self.fit(tiny_model_path, prompts, tmp_path, [0.0])
        for kind in ("truncated", "masked"):
            _, corrected = self.fit(tiny_model_path, prompts, tmp_path, [0.0], kind=kind, level="sequence")
            torch.testing.assert_close(trained_weights(corrected), trained_weights(plain), atol=1e-4, rtol=0)

    def test_a_warning_comes_whenever_they_begin_to_disagree(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        errors = [0.0, 0.3, 0.4, 0.0, 0.3]
        with caplog.at_level(logging.WARNING):
            self.fit(tiny_model_path, prompts, tmp_path, errors)
        warnings = [record.message for record in caplog.records if "engine and trainer differ" in record.message]
        assert [warning.split(":")[0] for warning in warnings] == ["step 1", "step 4"]
        assert float(warnings[0].split(" nats")[0].split()[-1]) == pytest.approx(0.15, abs=5e-3)
        assert "mismatch.warn_above (0.05)" in warnings[0] and "current weights" in warnings[0]

    def test_no_warning_comes_below_the_limit(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            self.fit(tiny_model_path, prompts, tmp_path, [0.3, 0.4], warn_above=0.25)
        assert "engine and trainer" not in caplog.text


class TestTruncatedSampling:
    SAMPLING = SamplingSettings(4, 8, top_p=0.6, top_k=40)

    def fit(self, model: Path, prompts: PromptSource, folder: Path, error: float) -> list[dict[str, float]]:
        """What the steps of two rounds logged, two each, by an engine with this error."""
        logger, objective = Logged(), GRPO(mismatch=MismatchCorrection("truncated"))
        module = GRPOModule(PolicySettings(str(model)), objective, optimizer=adam, schedule=CONSTANT)
        data = rollouts(prompts, engine=Mistaken([error] * 2), sampling=self.SAMPLING)
        small_trainer(folder, logger=logger, log_every_n_steps=1).fit(module, datamodule=data)
        return logger.steps

    def test_what_is_cut_off_is_not_taken_for_an_engine_that_is_wrong(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            steps = self.fit(tiny_model_path, prompts, tmp_path, 0.0)
        assert "engine and trainer" not in caplog.text
        for name in ("mismatch/mean", "kept_probability"):
            assert [f"train/{name}" in step for step in steps] == [True, False] * 2
        for step in steps[::2]:
            assert step["train/mismatch/max"] < 1e-5
            assert 0.02 < step["train/kept_probability"] < 0.6  # of the tiny model's nearly even distribution

    def test_an_engine_that_is_wrong_shows_as_ever(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            steps = self.fit(tiny_model_path, prompts, tmp_path, 0.2)
        for step in steps[::2]:
            assert step["train/mismatch/mean"] == pytest.approx(0.1, abs=2e-3)  # about every second token is wrong
            assert step["train/mismatch/max"] == pytest.approx(0.2, abs=1e-5)
        assert "engine and trainer differ by 0.1" in caplog.text

    @pytest.mark.parametrize("cut", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}])
    @pytest.mark.bad_input("settings")
    def test_it_is_refused_where_nothing_corrects_for_it(
        self, tiny_model_path: Path, prompts: PromptSource, tmp_path: Path, cut: dict[str, Any]
    ) -> None:
        module = GRPOModule(PolicySettings(str(tiny_model_path)))
        data = rollouts(prompts, sampling=SamplingSettings(4, 8, **cut))
        with pytest.raises(SettingsError, match=r"set model\.objective\.mismatch\.kind to truncated"):
            small_trainer(tmp_path).fit(module, datamodule=data)
