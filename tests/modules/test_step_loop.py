"""What every module's step does beside its loss."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import Curve, adam, small_trainer, trained_weights, write_pair_file
from torch import Tensor

from specs_lightning.data import PreferenceDataModule
from specs_lightning.groups import GroupBatch
from specs_lightning.modules import ColdStartModule, ScheduleSettings
from specs_lightning.modules.step_loop import SKIPPED_STEPS_LIMIT
from specs_lightning.objectives import SFT, LossTerms
from specs_lightning.policy.loading import PolicySettings


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
    assert sum("left out" in record.message for record in caplog.records) == 2
    assert trained_weights(module).isfinite().all()
    state = trainer.optimizers[0].state.values()
    assert all(value.isfinite().all() for moments in state for value in moments.values())


def test_a_run_that_does_not_recover_ends(tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
    module = make(tiny_model_path)
    module.broken_steps = frozenset(range(1000))
    with pytest.raises(RuntimeError, match=f"no finite gradient in {SKIPPED_STEPS_LIMIT} steps in a row"):
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
    assert rates["linear"] == pytest.approx([0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert rates["constant_with_warmup"] == pytest.approx([0, 1 / 2, 1, 1, 1, 1, 1, 1])
    assert rates["cosine"][:4] == pytest.approx([0, 1 / 2, 1, (1 + 0.8660254) / 2])


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
