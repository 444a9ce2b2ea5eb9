import math

import pytest
import torch
from helpers.step_batches import batch_of, random_logprobs

from specs_lightning.objectives import SFT


def test_the_mean_over_tokens_then_over_samples() -> None:
    """A mean over all tokens of the batch would give (1 + 3 + 5) / 3 = 3."""
    batch = batch_of([[2], [1]])
    logprobs_NT = torch.tensor([[-1.0, -3.0], [-5.0, 0.0]])
    terms = SFT()(logprobs_NT, batch, SFT().denominator(batch))
    assert terms.loss.item() == pytest.approx((2 + 5) / 2)
    assert terms.metrics["sft_loss"].total.item() == pytest.approx(7)
    assert terms.metrics["sft_loss"].count.item() == 2


def test_the_sum_over_tokens_then_the_mean_over_samples() -> None:
    batch = batch_of([[2], [1]])
    logprobs_NT = torch.tensor([[-1.0, -3.0], [-5.0, 0.0]])
    sft = SFT(normalization="sum")
    assert sft(logprobs_NT, batch, sft.denominator(batch)).loss.item() == pytest.approx((4 + 5) / 2)


def test_the_gradient_raises_every_counted_token_and_no_other() -> None:
    batch = batch_of([[3], [1]])
    batch.mask_NT[0, 1] = False
    logprobs_NT = random_logprobs(batch, 0).requires_grad_()
    SFT()(logprobs_NT, batch, SFT().denominator(batch)).loss.backward()
    assert torch.allclose(logprobs_NT.grad, torch.tensor([[-0.25, 0, -0.25], [-0.5, 0, 0]], dtype=torch.float64))


def test_a_completion_without_a_counted_token_costs_nothing() -> None:
    batch = batch_of([[2], [2]])
    batch.mask_NT[1] = False
    loss = SFT()(torch.full((2, 2), -math.log(4)), batch, SFT().denominator(batch)).loss
    assert loss.item() == pytest.approx(math.log(4) / 2)
