"""Preference losses in place of DPO's, against TRL's own and by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.step_batches import batch_of, near, random_logprobs
from helpers.trl_losses import trl_dpo_loss
from torch import Tensor
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from specs_lightning.groups import GroupBatch
from specs_lightning.objectives import IPO, ORPO, APODown, APOZero, LengthNormalizedDPO, PreferenceObjective, SimPO


def ready() -> tuple[Tensor, GroupBatch]:
    batch = batch_of([[6, 2], [6, 7], [6, 4], [6, 1]])
    logprobs_NT = random_logprobs(batch, 2).requires_grad_()
    batch.reference_logprobs_N = near(logprobs_NT, 0.5, 3).sum(-1)
    return logprobs_NT, batch


def loss_of(objective: PreferenceObjective, logprobs_NT: Tensor, batch: GroupBatch) -> Tensor:
    return objective(logprobs_NT, batch, objective.denominator(batch)).loss


def assert_same(measured: Tensor, expected: Tensor, logprobs_NT: Tensor, tolerance: float = 1e-10) -> None:
    """In value and gradient."""
    torch.testing.assert_close(measured, expected.to(measured.dtype), rtol=tolerance, atol=tolerance)
    gradient, wanted = (torch.autograd.grad(loss, logprobs_NT)[0] for loss in (measured, expected))
    assert wanted.any()
    torch.testing.assert_close(gradient, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
@pytest.mark.parametrize(
    ("kind", "scale", "loss_type"),
    [
        (LengthNormalizedDPO, "reward_scale", "sigmoid_norm"),
        (IPO, "tau", "ipo"),
        (APOZero, "beta", "apo_zero"),
        (APODown, "beta", "apo_down"),
    ],
)
def test_values_and_gradients_are_those_of_trls_dpo(kind: Any, scale: str, loss_type: str, sft_weight: float) -> None:
    logprobs_NT, batch = ready()
    reference_N = batch.reference_logprobs_N
    sides = logprobs_NT[0::2], logprobs_NT[1::2], batch.mask_NT[0::2], batch.mask_NT[1::2]
    expected, _ = trl_dpo_loss(
        *sides, reference_N[0::2], reference_N[1::2], beta=0.7, sft_weight=sft_weight, loss_type=loss_type
    )
    objective = kind(sft_weight=sft_weight, **{scale: 0.7})
    assert_same(loss_of(objective, logprobs_NT, batch), expected, logprobs_NT)


def test_simpo_is_that_of_trls_cpo() -> None:
    logprobs_NT, batch = ready()
    mean_N = (logprobs_NT * batch.mask_NT).sum(-1) / batch.lengths_N
    trainer = SimpleNamespace(
        loss_type="simpo",
        alpha=0.0,
        beta=2.5,
        simpo_gamma=0.8,
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    losses, _, _ = CPOTrainer.cpo_loss(trainer, mean_N[0::2], mean_N[1::2])
    objective = SimPO(reward_scale=2.5, margin=0.8, sft_weight=0)
    assert_same(loss_of(objective, logprobs_NT, batch), losses.mean(), logprobs_NT)


def test_orpo_is_that_of_trl() -> None:
    """Its odds are in float32. The supervised term is a mean over tokens, as ours where lengths are equal."""
    logprobs_NT, batch = ready()
    mean_N = (logprobs_NT * batch.mask_NT).sum(-1) / batch.lengths_N
    trainer = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device=torch.device("cpu")))
    ratio, *_ = ORPOTrainer.odds_ratio_loss(trainer, mean_N[0::2], mean_N[1::2])
    expected = -mean_N[0::2].mean() - ratio.mean()
    assert_same(loss_of(ORPO(odds_weight=0.3), logprobs_NT, batch), expected, logprobs_NT, tolerance=1e-6)


def test_completions_that_are_certain_have_finite_odds() -> None:
    batch = batch_of([[2, 1]])
    logprobs_NT = torch.tensor([[0.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss_of(ORPO(), logprobs_NT, batch).backward()
    assert logprobs_NT.grad.isfinite().all()


def odds(probability: float) -> float:
    return probability / (1 - probability)


class TestByHand:
    """Of log π/π_ref, the chosen has 2 in 4 tokens and the rejected −1 in 1."""

    batch = batch_of([[4, 1]], reference_logprobs_N=torch.tensor([-4.0, -1.0]))
    logprobs_NT = torch.tensor([[-0.5] * 4, [-2.0, 0, 0, 0]])

    @pytest.mark.parametrize(
        ("objective", "expected"),
        [
            (LengthNormalizedDPO(reward_scale=1), math.log(1 + math.exp(-1.5))),  # ½ − (−1)
            (IPO(tau=0.5), (1.5 - 1) ** 2),
            (SimPO(reward_scale=2, margin=1), math.log(1 + math.exp(-(2 * 1.5 - 1)))),  # −½ − (−2)
            (ORPO(odds_weight=1), math.log(1 + odds(math.exp(-2)) / odds(math.exp(-0.5)))),
            (APOZero(beta=1), 1 / (1 + math.exp(2)) + 1 / (1 + math.exp(1))),
            (APODown(beta=1), 1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(3))),
        ],
    )
    def test_loss(self, objective: Any, expected: float) -> None:
        plain = type(objective)(**{**vars(objective), "sft_weight": 0.0})
        assert loss_of(plain, self.logprobs_NT, self.batch).item() == pytest.approx(expected)
