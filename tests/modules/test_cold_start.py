"""The cold start, trained for a few real steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import Curve, adam, sgd, small_trainer, trained_weights, write_pair_file
from helpers.tiny_policies import relative_difference, sharp_policy
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from specs_lightning.data import PreferenceDataModule
from specs_lightning.modules import ColdStartModule, ScheduleSettings
from specs_lightning.objectives import DPO, SFT, ColdStartObjective
from specs_lightning.policy.loading import LoRASettings, PolicySettings

ACCURACIES = {"train/rewards/accuracies", "train/preference_accuracy"}
"""By its name of today and of before."""
CONSTANT = ScheduleSettings(name="constant", warmup_share=0.0)


@pytest.fixture(scope="module")
def model(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sharp_policy(tiny_model_path).save(tmp_path_factory.mktemp("sharp") / "model"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_pair_file(tmp_path_factory.mktemp("pairs")))


def make(model: str, objective: ColdStartObjective, freeze_vision: bool = True, **settings: Any) -> ColdStartModule:
    defaults: dict[str, Any] = {"optimizer": adam, "schedule": CONSTANT}
    return ColdStartModule(PolicySettings(model, freeze_vision=freeze_vision), objective, **defaults | settings)


@pytest.mark.parametrize("freeze_vision", [True, False])
@pytest.mark.parametrize("objective", [DPO(), SFT()], ids=["dpo", "sft"])
def test_a_step_does_not_depend_on_the_size_of_its_micro_batches(
    model: str, pairs: str, tmp_path: Path, objective: ColdStartObjective, freeze_vision: bool
) -> None:
    moved, curves = [], []
    for max_tokens in (1, 250, 100_000):
        module = make(
            model, objective, freeze_vision, optimizer=sgd, max_tokens_per_micro_batch=max_tokens, max_grad_norm=1e9
        )
        module.configure_model()
        start = trained_weights(module)
        curves.append(Curve())
        trainer = small_trainer(tmp_path, curves[-1], max_steps=1)
        trainer.fit(module, datamodule=PreferenceDataModule(pairs, batch_size=6))
        moved.append(trained_weights(module) - start)
    assert moved[-1].norm() > 0
    for other, curve in zip(moved[:-1], curves[:-1], strict=True):
        assert relative_difference(other, moved[-1]) <= 1e-5
        # Whether a margin of 0 counts as positive is up to rounding.
        measured, expected = (
            {name: value for name, value in c.steps[0].items() if name not in ACCURACIES} for c in (curve, curves[-1])
        )
        assert measured == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("asked", "lora"), [("frozen", None), ("adapter_off", LoRASettings(rank=4))])
def test_a_reference_that_is_asked_gives_the_curve_of_the_cached_one(
    model: str, pairs: str, tmp_path: Path, asked: Any, lora: LoRASettings | None
) -> None:
    curves = {}
    for reference in ("cached", asked):
        seed_everything(0)  # adapters begin at random
        curves[reference] = Curve()
        module = ColdStartModule(PolicySettings(model, lora=lora), DPO(), reference, optimizer=adam, schedule=CONSTANT)
        assert module.keeps_second_model is (reference == "frozen")
        small_trainer(tmp_path, curves[reference]).fit(module, datamodule=PreferenceDataModule(pairs, batch_size=3))
    assert len(curves["cached"].steps) == 3
    assert curves["cached"]["loss"] == pytest.approx(curves[asked]["loss"], rel=1e-4)
    assert curves["cached"]["rewards/margins"] == pytest.approx(curves[asked]["rewards/margins"], abs=1e-4)
    assert curves["cached"]["rewards/margins"][0] == pytest.approx(0, abs=1e-5)
    assert abs(curves["cached"]["rewards/margins"][2]) > 1e-3


def test_an_adapter_that_is_not_there_cannot_be_switched_off(model: str) -> None:
    with pytest.raises(ValueError, match=r"adapter_off .* needs policy\.lora"):
        make(model, DPO(), reference="adapter_off")


@pytest.mark.parametrize("reduced", ["precision", "dtype"])
@pytest.mark.parametrize("reference", ["cached", "frozen"])
def test_reduced_precision_leaves_policy_and_reference_equal_at_the_start(
    model: str, pairs: str, tmp_path: Path, reference: Any, reduced: str
) -> None:
    # In one micro-batch, as the reference: products of other shapes are rounded otherwise.
    curve, module = Curve(), make(model, DPO(), reference=reference, max_tokens_per_micro_batch=100_000)
    if reduced == "dtype":
        module.policy_settings = PolicySettings(model, dtype="bfloat16", lora=LoRASettings(rank=4))
    trainer = small_trainer(tmp_path, curve, max_steps=1, precision="bf16-mixed" if reduced == "precision" else None)
    trainer.fit(module, datamodule=PreferenceDataModule(pairs, batch_size=8))
    assert curve["rewards/chosen"][0] == pytest.approx(0, abs=1e-6)
    assert curve["rewards/rejected"][0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("reference", ["cached", "frozen"])
def test_a_checkpoint_holds_no_second_model_and_a_run_goes_on_from_it(
    model: str, pairs: str, tmp_path: Path, reference: Any
) -> None:
    whole = Curve()
    keeper = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    first = make(model, DPO(), reference=reference)
    small_trainer(tmp_path, whole, keeper, enable_checkpointing=True, max_epochs=2).fit(
        first, datamodule=PreferenceDataModule(pairs, batch_size=2)
    )
    assert len(whole.steps) == 8
    checkpoint = torch.load(tmp_path / "step=6.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {f"policy.{name}" for name in first.policy.state_dict()}
    assert not [name for name in first.state_dict() if not name.startswith("policy.")]

    resumed, module = Curve(), make(model, DPO(), reference=reference)
    small_trainer(tmp_path, resumed, max_epochs=2).fit(
        module, datamodule=PreferenceDataModule(pairs, batch_size=2), ckpt_path=tmp_path / "step=6.ckpt"
    )
    assert resumed.steps == whole.steps[6:]
    assert torch.equal(trained_weights(module), trained_weights(first))


def test_a_checkpoint_of_another_objective_is_refused(model: str, pairs: str, tmp_path: Path) -> None:
    keeper = ModelCheckpoint(tmp_path, filename="sft", every_n_train_steps=1)
    small_trainer(tmp_path, keeper, enable_checkpointing=True, max_steps=1).fit(
        make(model, SFT()), datamodule=PreferenceDataModule(pairs, batch_size=4)
    )
    with pytest.raises(RuntimeError, match="no reference log-probabilities"):
        small_trainer(tmp_path).fit(
            make(model, DPO()), datamodule=PreferenceDataModule(pairs, batch_size=4), ckpt_path=tmp_path / "sft.ckpt"
        )


def test_a_frozen_vision_tower_stays_and_the_rest_moves(model: str, pairs: str, tmp_path: Path) -> None:
    for freeze in (True, False):
        module = make(model, DPO(), freeze)
        module.configure_model()
        start = {name: p.detach().clone() for name, p in module.policy.model.named_parameters()}
        small_trainer(tmp_path, max_steps=2).fit(module, datamodule=PreferenceDataModule(pairs, batch_size=4))
        moved = {name for name, p in module.policy.model.named_parameters() if not torch.equal(p, start[name])}
        vision = {name for name in start if "visual" in name}
        assert vision
        assert set(start) - vision <= moved
        assert bool(moved & vision) is not freeze
