"""GRPO, trained for a few real steps on the tiny model's own samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_runs import Curve, Failing, Letters, adam, sgd, small_trainer, trained_weights, write_prompt_file
from tiny_policies import relative_difference, sharp_policy

from specs_lightning.data import RolloutDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.modules import GRPOModule, ScheduleSettings
from specs_lightning.objectives import GRPO
from specs_lightning.policy import PolicySettings
from specs_lightning.rollout import SamplingSettings

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


@pytest.mark.parametrize(
    "objective",
    [
        GRPO(),
        GRPO(aggregation="sequence", mask_truncated=True),
        GRPO(aggregation="constant", constant_length=8, kl_coefficient=0.1),
    ],
    ids=["token", "sequence", "constant"],
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
        data = rollouts(prompts, rewards=[reward], sampling=sampling, steps_per_round=1, max_unscored_share=1.0)
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
    assert {"train/loss", "train/entropy", "train/grad_norm", "train/lr", "train/reward/letters"} <= set(curve.steps[0])
    # The engine is the policy itself: what it reports is what training finds.
    assert max(curve["engine_gap"]) < 1e-5


def test_a_kl_term_is_zero_at_the_start_and_grows(tiny_model_path: Path, prompts: PromptSource, tmp_path: Path) -> None:
    curve = Curve()
    module = GRPOModule(PolicySettings(str(tiny_model_path)), GRPO(kl_coefficient=0.1), None, adam, CONSTANT)
    small_trainer(tmp_path, curve).fit(module, datamodule=rollouts(prompts))
    assert curve["reference_kl"][0] == pytest.approx(0, abs=1e-7)
    assert curve["reference_kl"][-1] > 1e-6
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
    assert curves[0]["engine_gap"][0] < 1e-5
    assert curves[1]["engine_gap"][0] < 5e-3
