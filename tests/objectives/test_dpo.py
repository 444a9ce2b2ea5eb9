import math

import pytest
import torch
from helpers.step_batches import batch_of, near, random_logprobs
from helpers.trl_losses import trl_dpo_loss
from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.objectives import DPO, SFT


def loss_of(dpo: DPO, logprobs_NT: Tensor, batch: GroupBatch) -> Tensor:
    return dpo(logprobs_NT, batch, dpo.denominator(batch)).loss


def hand_worked() -> tuple[Tensor, GroupBatch]:
    """One pair: chosen −1 −2 against −4 of the reference, rejected −3 against −1."""
    batch = batch_of([[2, 1]], reference_logprobs_N=torch.tensor([-4.0, -1.0]))
    return torch.tensor([[-1.0, -2.0], [-3.0, 0.0]]), batch


class TestByHand:
    def test_loss(self) -> None:
        logprobs_NT, batch = hand_worked()
        margin = 0.1 * ((-3 + 4) - (-3 + 1))
        expected = math.log(1 + math.exp(-margin))
        assert loss_of(DPO(sft_weight=0), logprobs_NT, batch).item() == pytest.approx(expected)
        assert loss_of(DPO(sft_weight=2), logprobs_NT, batch).item() == pytest.approx(expected + 2 * 1.5)
        summed = DPO(sft_weight=2, sft_normalization="sum")
        assert loss_of(summed, logprobs_NT, batch).item() == pytest.approx(expected + 2 * 3)

    def test_metrics(self) -> None:
        logprobs_NT, batch = hand_worked()
        metrics = DPO()(logprobs_NT, batch, DPO().denominator(batch)).metrics
        means = {name: (share.total / share.count).item() for name, share in metrics.items()}
        assert means["rewards/chosen"] == pytest.approx(0.1)
        assert means["rewards/rejected"] == pytest.approx(-0.2)
        assert means["rewards/margins"] == pytest.approx(0.3)
        assert means["rewards/accuracies"] == 1
        assert means["sft_loss"] == pytest.approx(1.5)
        assert means["dpo_loss"] == pytest.approx(math.log(1 + math.exp(-0.3)))

    def test_equal_to_the_reference_it_is_log_two_whatever_beta(self) -> None:
        batch = batch_of([[3, 2], [1, 4]])
        logprobs_NT = random_logprobs(batch, 0)
        batch.reference_logprobs_N = logprobs_NT.sum(-1)
        for beta in (0.1, 5.0):
            assert loss_of(DPO(beta=beta, sft_weight=0), logprobs_NT, batch).item() == pytest.approx(math.log(2))


class TestGradient:
    def test_chosen_rise_and_rejected_fall(self) -> None:
        logprobs_NT, batch = hand_worked()
        logprobs_NT.requires_grad_()
        loss_of(DPO(sft_weight=0), logprobs_NT, batch).backward()
        slope = 0.1 / (1 + math.exp(0.3))
        assert torch.allclose(logprobs_NT.grad, torch.tensor([[-slope, -slope], [slope, 0]]))

    def test_the_supervised_term_acts_on_the_chosen_alone(self) -> None:
        logprobs_NT, batch = hand_worked()
        logprobs_NT.requires_grad_()
        without = torch.autograd.grad(loss_of(DPO(sft_weight=0), logprobs_NT, batch), logprobs_NT)[0]
        with_it = torch.autograd.grad(loss_of(DPO(sft_weight=3), logprobs_NT, batch), logprobs_NT)[0]
        assert torch.allclose(with_it - without, torch.tensor([[-1.5, -1.5], [0, 0]]))

    def test_the_supervised_term_is_that_of_sft(self) -> None:
        pairs = batch_of([[3, 2], [4, 1]])
        chosen = pairs.select([0, 2])
        logprobs_NT = random_logprobs(pairs, 1)
        pairs.reference_logprobs_N = logprobs_NT.sum(-1)
        expected = SFT()(logprobs_NT[0::2], chosen, SFT().denominator(chosen)).loss
        measured = loss_of(DPO(sft_weight=1), logprobs_NT, pairs) - math.log(2)
        assert measured.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("sft_weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_values_gradients_and_metrics_are_those_of_trl(beta: float, sft_weight: float) -> None:
    """TRL's sft term is one mean over all chosen tokens of the batch, ours a mean over each sample's tokens, then over
    samples: they agree where the chosen completions are of one length, as here (the rejected ones are ragged)."""
    batch = batch_of([[6, 2], [6, 7], [6, 4], [6, 1]])
    logprobs_NT = random_logprobs(batch, 2).requires_grad_()
    batch.reference_logprobs_N = near(logprobs_NT, 0.5, 3).sum(-1)
    mask_NT, reference_N = batch.mask_NT, batch.reference_logprobs_N
    expected, trl_metrics = trl_dpo_loss(
        logprobs_NT[0::2],
        logprobs_NT[1::2],
        mask_NT[0::2],
        mask_NT[1::2],
        reference_N[0::2],
        reference_N[1::2],
        beta=beta,
        sft_weight=sft_weight,
    )
    dpo = DPO(beta=beta, sft_weight=sft_weight)
    terms = dpo(logprobs_NT, batch, dpo.denominator(batch))
    torch.testing.assert_close(terms.loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(terms.loss, logprobs_NT)[0], torch.autograd.grad(expected, logprobs_NT)[0]
    )
    same = ("chosen", "rejected", "margins", "accuracies")
    for name in (*(f"rewards/{which}" for which in same), "logps/chosen", "logps/rejected"):
        assert terms.metrics[name].value.item() == pytest.approx(trl_metrics[name]), name


class TestErrors:
    @pytest.mark.parametrize("lengths", [[[1]], [[1, 1, 1]], [[1, 1], [1]], [[1], [1, 1, 1]]])
    def test_groups_must_be_pairs(self, lengths: list[list[int]]) -> None:
        batch = batch_of(lengths)
        batch.reference_logprobs_N = torch.zeros(len(batch))
        with pytest.raises(ValueError, match="pair"):
            loss_of(DPO(), random_logprobs(batch, 0), batch)

    def test_a_reference_is_needed(self) -> None:
        batch = batch_of([[1, 1]])
        with pytest.raises(ValueError, match="reference"):
            loss_of(DPO(), random_logprobs(batch, 0), batch)

    @pytest.mark.parametrize("wrong", [{"beta": 0}, {"beta": -1}, {"sft_weight": -0.1}])
    def test_settings_out_of_range(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DPO(**wrong)
