"""What a token's gradient is by how far its probability has moved, against TRL and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.step_batches import batch_of, near, random_logprobs
from helpers.trl_losses import trl_grpo_loss

from specs_lightning.objectives import CISPO, GRPO, SAPO, Clipped, Surrogate

TRL: dict[str, tuple[Surrogate, str, dict[str, Any]]] = {
    "clipped": (Clipped(0.1, 0.3), "dapo", {"clip_low": 0.1, "clip_high": 0.3}),
    "dual clip": (Clipped(dual_clip=1.5), "dapo", {"delta": 1.5}),
    "cispo": (CISPO(cap=1.3), "cispo", {"clip_high": 1.3}),
    "sapo": (SAPO(), "sapo", {"temperatures": (1.0, 1.05)}),
}
"""Ours, TRL's `loss_type`, and its settings."""


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("name", TRL)
def test_values_and_gradients_are_those_of_trl(name: str, ratio: Any) -> None:
    surrogate, loss_type, settings = TRL[name]
    batch = batch_of([[3, 7, 1], [5, 2, 9], [4, 4, 4]])
    logprobs_NT = random_logprobs(batch, 0).requires_grad_()
    batch.advantages_N = torch.randn(len(batch), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch.old_logprobs_NT = near(logprobs_NT, 0.6, 2)
    grpo = GRPO(surrogate=surrogate, ratio=ratio, aggregation="sequence" if loss_type == "sapo" else "token")
    terms = grpo(logprobs_NT, batch, grpo.denominator(batch))
    expected = trl_grpo_loss(
        logprobs_NT,
        batch.mask_NT,
        batch.advantages_N,
        batch.old_logprobs_NT,
        loss_type=loss_type,
        level=ratio,
        **settings,
    )
    torch.testing.assert_close(terms.loss, expected, rtol=1e-12, atol=1e-12)
    gradient, wanted = (torch.autograd.grad(loss, logprobs_NT)[0] for loss in (terms.loss, expected))
    assert wanted.any()
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("surrogate", "ratio", "advantage", "slope", "cut"),
    [
        (Clipped(), 1.1, 1.0, -1.1, False),
        (Clipped(), 1.5, 1.0, 0.0, True),
        (Clipped(), 0.5, -1.0, 0.0, True),
        (Clipped(), 9.0, -1.0, 9.0, False),  # without dual clip
        (Clipped(dual_clip=3), 2.9, -1.0, 2.9, False),
        (Clipped(dual_clip=3), 9.0, -1.0, 0.0, True),
        (CISPO(cap=2), 1.5, 1.0, -1.5, False),
        (CISPO(cap=2), 9.0, 1.0, -2.0, True),
        (CISPO(cap=2), 9.0, -1.0, 2.0, True),
        (SAPO(), 1.0, 1.0, -1.0, False),
        (SAPO(), 2.0, 1.0, -2 * 4 * math.exp(-1) / (1 + math.exp(-1)) ** 2, False),
        (SAPO(), 1.0, -1.0, 1.0, False),
    ],
)
def test_the_gradient_of_a_token(surrogate: Surrogate, ratio: float, advantage: float, slope: float, cut: bool) -> None:
    batch = batch_of([[1]], advantages_N=torch.tensor([advantage]), old_logprobs_NT=torch.tensor([[-3.0]]))
    logprobs_NT = (batch.old_logprobs_NT + math.log(ratio)).requires_grad_()
    terms = GRPO(surrogate=surrogate)(logprobs_NT, batch, torch.tensor(1))
    terms.loss.backward()
    assert logprobs_NT.grad.item() == pytest.approx(slope, rel=1e-5)
    assert terms.metrics["clip_ratio/region_mean"].value.item() == cut


def test_while_the_policy_has_not_moved_all_have_the_same_gradient() -> None:
    batch = batch_of([[3, 7], [5, 2]], advantages_N=torch.tensor([1.0, -2, 0.5, -1]))
    gradients = []
    for surrogate, _, _ in TRL.values():
        logprobs_NT = random_logprobs(batch, 0).requires_grad_()
        GRPO(surrogate=surrogate)(logprobs_NT, batch, batch.mask_NT.sum()).loss.backward()
        gradients.append(logprobs_NT.grad)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-6, atol=1e-8)


def test_the_clip_of_the_objective_is_short_for_the_clipped_surrogate() -> None:
    short, long = GRPO(clip_low=0.1, clip_high=0.5), GRPO(surrogate=Clipped(0.1, 0.5))
    assert short.clipping == long.clipping
    with pytest.raises(ValueError, match="set them within surrogate"):
        replace(short, surrogate=CISPO())


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Clipped, {"clip_low": 1.0}),
        (Clipped, {"clip_high": -0.1}),
        (Clipped, {"dual_clip": 1.2}),
        (CISPO, {"cap": 0.5}),
        (SAPO, {"temperature_positive": 0.0}),
        (SAPO, {"temperature_negative": -1.0}),
    ],
)
def test_settings_that_make_no_sense(kind: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).partition("_")[0]):
        kind(**wrong)
