"""What every module's step does beside its loss."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import Curve, adam, small_trainer, trained_weights, write_pair_file, write_prompt_file
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import HalfPrecision
from torch import Tensor

from specs_lightning.data import PreferenceDataModule
from specs_lightning.data.policy_data import EvaluationDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.errors import SpecsError
from specs_lightning.groups import GroupBatch
from specs_lightning.modules import ColdStartModule, ScheduleSettings
from specs_lightning.modules.step_loop import SKIPPED_STEPS_LIMIT, NothingLearned
from specs_lightning.objectives import SFT, LossTerms
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import SamplingSettings


class BreaksDown(ColdStartModule):
    """Its loss is not a number in some steps."""

    broken_steps: frozenset[int] = frozenset()
    seen = -1

    def denominator(self, batch: GroupBatch) -> Tensor:
        self.seen += 1
        return super().denominator(batch)

    def loss(self, batch: GroupBatch, denominator: Tensor) -> LossTerms:
        terms = super().loss(batch, denominator)
        return LossTerms(terms.loss * float("nan"), terms.metrics) if self.seen in self.broken_steps else terms


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_pair_file(tmp_path_factory.mktemp("pairs"), 12))


def make(tiny_model_path: Path, **settings: Any) -> BreaksDown:
    defaults: dict[str, Any] = {"optimizer": adam, "schedule": ScheduleSettings("constant", 0.0)}
    return BreaksDown(PolicySettings(str(tiny_model_path)), SFT(), **defaults | settings)


def test_the_policys_version_counts_optimizer_steps(tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
    curve = Curve()
    small_trainer(tmp_path, curve).fit(make(tiny_model_path), datamodule=PreferenceDataModule(pairs, batch_size=4))
    assert curve.versions == [1, 2, 3]


@pytest.mark.parametrize(("asked", "device", "tokens"), [(None, "cpu", 768), (None, "meta", 16384), (300, "cpu", 300)])
def test_a_micro_batch_is_large_on_a_gpu_alone_if_not_said_otherwise(
    tiny_model_path: Path, asked: int | None, device: str, tokens: int
) -> None:
    assert make(tiny_model_path, max_tokens_per_micro_batch=asked).to(device).micro_batch_tokens == tokens


def test_a_step_without_a_finite_gradient_is_left_out_and_counted(
    tiny_model_path: Path, pairs: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    curve, module = Curve(), make(tiny_model_path)
    module.broken_steps = frozenset({1, 2})
    trainer = small_trainer(tmp_path, curve)
    with caplog.at_level(logging.WARNING):
        trainer.fit(module, datamodule=PreferenceDataModule(pairs, batch_size=3))
    assert curve.versions == [1, 1, 1, 2]
    assert curve["skipped"] == [0, 1, 1, 0]
    assert trainer.global_step == 2
    said = [record.message for record in caplog.records if "left out" in record.message]
    assert said == [f"step {number} left out: the gradient's norm is nan" for number in (1, 2)]
    assert trained_weights(module).isfinite().all()
    state = trainer.optimizers[0].state.values()
    assert all(value.isfinite().all() for moments in state for value in moments.values())


def test_a_run_that_does_not_recover_ends(tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
    module = make(tiny_model_path)
    module.broken_steps = frozenset(range(1000))
    with pytest.raises(
        NothingLearned, match=f"{SKIPPED_STEPS_LIMIT} steps in a row .* norm is nan: lower the learning"
    ):
        small_trainer(tmp_path).fit(module, datamodule=PreferenceDataModule(pairs, batch_size=1))
    assert module.seen == SKIPPED_STEPS_LIMIT - 1
    assert module.policy.version == 0


def test_the_rate_rises_over_the_warm_up_and_falls_after_it(tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
    rates = {}
    for name in ("linear", "cosine", "constant_with_warmup"):
        curve = Curve()
        module = make(tiny_model_path, schedule=ScheduleSettings(name, 0.25))
        small_trainer(tmp_path, curve, max_epochs=2).fit(module, datamodule=PreferenceDataModule(pairs, batch_size=3))
        rates[name] = [rate / 1e-3 for rate in curve["lr"]]
    assert rates["linear"] == pytest.approx([1 / 2, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])
    assert rates["constant_with_warmup"] == pytest.approx([1 / 2, 1, 1, 1, 1, 1, 1, 1])
    assert rates["cosine"] == pytest.approx([1 / 2, *((1 + math.cos(math.pi * i / 7)) / 2 for i in range(7))])


@pytest.mark.parametrize(("name", "share"), [("cosine", 0.2), ("linear", 0.5), ("cosine", 1.0), ("linear", 0.05)])
def test_no_step_is_wasted_on_a_rate_of_zero(
    tiny_model_path: Path, pairs: str, tmp_path: Path, name: str, share: float
) -> None:
    """The trained weights move in each, the first and the last too."""
    curve, module = Curve(), make(tiny_model_path, schedule=ScheduleSettings(name, share))
    moved: list[bool] = []

    class Moves(Callback):
        def on_train_batch_start(self, *unused: Any) -> None:
            self.before = trained_weights(module)

        def on_train_batch_end(self, *unused: Any) -> None:
            moved.append(not torch.equal(self.before, trained_weights(module)))

    data = PreferenceDataModule(pairs, batch_size=2)
    small_trainer(tmp_path, curve, Moves()).fit(module, datamodule=data)
    assert moved == [True] * 6
    warmup = round(share * 6)
    if warmup:
        assert [r / 1e-3 for r in curve["lr"][:warmup]] == pytest.approx([i / warmup for i in range(1, warmup + 1)])


def test_a_training_goes_on_in_the_middle_of_its_schedule(tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
    whole, resumed = Curve(), Curve()
    for curve, resume in ((whole, None), (resumed, tmp_path / "step=2.ckpt")):
        module = make(tiny_model_path, schedule=ScheduleSettings("cosine", 0.5))
        keeper = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = small_trainer(tmp_path, curve, keeper, enable_checkpointing=True)
        trainer.fit(module, datamodule=PreferenceDataModule(pairs, batch_size=2), ckpt_path=resume)
    assert resumed["lr"] == whole["lr"][2:]


class RoundedAdapters(ColdStartModule):
    """Puts its adapters into bfloat16, as a subclass or a callback may."""

    def load_policy(self, settings: PolicySettings) -> Policy:
        policy = super().load_policy(settings)
        for name, weight in policy.named_parameters():
            if ".lora_" in name:
                weight.data = weight.data.bfloat16()
        return policy


BF16, LORA = {"dtype": "bfloat16"}, {"lora": LoRASettings(rank=4)}
ROUNDED: dict[str, tuple[type[ColdStartModule], dict[str, Any], dict[str, Any]]] = {
    "trainer.precision": (ColdStartModule, {}, {"precision": "bf16-true"}),
    "trainer.precision in float16": (ColdStartModule, {}, {"precision": "16-true"}),
    "trainer.precision with adapters": (ColdStartModule, LORA, {"precision": "bf16-true"}),
    "a plugin": (ColdStartModule, {}, {"plugins": [HalfPrecision("bf16-true")]}),
    "the weights' type": (ColdStartModule, BF16, {}),
    "the weights' type, computing in bfloat16": (ColdStartModule, BF16, {"precision": "bf16-mixed"}),
    "adapters": (RoundedAdapters, LORA, {}),
    "adapters beside weights in bfloat16": (RoundedAdapters, LORA | BF16, {"precision": "bf16-mixed"}),
}


@pytest.mark.parametrize("way", ROUNDED)
def test_weights_that_are_trained_are_never_rounded_to_bfloat16(
    tiny_model_path: Path, pairs: str, tmp_path: Path, way: str
) -> None:
    module_class, policy, trainer = ROUNDED[way]
    module = module_class(PolicySettings(str(tiny_model_path), **policy), SFT())
    refused = pytest.raises(SpecsError, match=r"must be float32.*dtype to float32.*precision to bf16-mixed.*lora")
    with refused as error:
        small_trainer(tmp_path, **trainer).fit(module, datamodule=PreferenceDataModule(pairs, batch_size=4))
    assert "dtype to bfloat16" not in str(error.value)


@pytest.mark.parametrize(
    ("policy", "precision"), [({}, "32-true"), ({}, "bf16-mixed"), (LORA, "bf16-mixed"), (LORA | BF16, None)]
)
def test_what_is_trained_moves_at_the_papers_rate(
    tiny_model_path: Path, pairs: str, tmp_path: Path, policy: dict[str, Any], precision: Any
) -> None:
    """In bfloat16 few weights would (4 % of this model's); in float32 those that have a gradient do."""
    module = ColdStartModule(
        PolicySettings(str(tiny_model_path), **policy), SFT(), schedule=ScheduleSettings("constant", 0.0)
    )
    module.configure_model()
    before = trained_weights(module)
    with_gradient: list[Tensor] = []

    class Gradients(Callback):
        def on_before_optimizer_step(self, *unused: Any) -> None:
            trained = [p for p in module.policy.parameters() if p.requires_grad]
            with_gradient.append(torch.cat([p.grad.flatten() != 0 for p in trained if p.grad is not None]))

    trainer = small_trainer(tmp_path, Gradients(), max_steps=1, precision=precision)
    trainer.fit(module, datamodule=PreferenceDataModule(pairs, batch_size=4))
    moved = (trained_weights(module) != before)[with_gradient[0]].float().mean()
    assert moved > 0.98
    rounded = (trained_weights(module).bfloat16() != before.bfloat16())[with_gradient[0]].float().mean()
    assert rounded < 0.1 or LORA.items() <= policy.items()  # adapters start at zero, where any step is visible


def test_a_model_in_bfloat16_can_be_evaluated(tiny_model_path: Path, tmp_path: Path) -> None:
    few = {"few": PromptSource(str(write_prompt_file(tmp_path, 2)))}
    data = EvaluationDataModule(few, evaluation_sampling=SamplingSettings(1, 4))
    module = ColdStartModule(PolicySettings(str(tiny_model_path), dtype="bfloat16"), SFT())
    small_trainer(tmp_path).validate(module, datamodule=data, verbose=False)
    assert module.outcome is not None and len(module.outcome.answers["few"]) == 2
    with pytest.raises(SpecsError, match=r"bf16-true .* set model\.policy\.dtype to bfloat16"):
        small_trainer(tmp_path, precision="bf16-true").validate(module, datamodule=data, verbose=False)


def test_the_schedule_ends_with_max_steps(tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
    curve = Curve()
    module = make(tiny_model_path, schedule=ScheduleSettings("linear", 0.0))
    small_trainer(tmp_path, curve, max_steps=4).fit(module, datamodule=PreferenceDataModule(pairs, batch_size=2))
    assert [rate / 1e-3 for rate in curve["lr"]] == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])


def test_gradients_are_scaled_down_to_the_norm(tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
    def step(limit: float) -> tuple[float, float]:
        curve = Curve()
        module = make(tiny_model_path, optimizer=lambda p: torch.optim.SGD(p, lr=1.0), max_grad_norm=limit)
        module.configure_model()
        start = trained_weights(module)
        trainer = small_trainer(tmp_path, curve, max_steps=1)
        trainer.fit(module, datamodule=PreferenceDataModule(pairs, batch_size=4))
        return curve["grad_norm"][0], float((trained_weights(module) - start).norm())

    norm, moved = step(1e9)
    assert moved == pytest.approx(norm, rel=1e-3)
    assert step(norm / 10) == (pytest.approx(norm), pytest.approx(norm / 10, rel=1e-3))
