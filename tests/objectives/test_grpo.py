from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.step_batches import batch_of, near, random_logprobs
from helpers.trl_losses import trl_grpo_loss, trl_importance_sampling_ratio
from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.objectives import GRPO, BatchScaled, MismatchCorrection

NAN = math.nan


def loss_of(grpo: GRPO, logprobs_NT: Tensor, batch: GroupBatch) -> Tensor:
    return grpo(logprobs_NT, batch, grpo.denominator(batch)).loss


def weighed_batch(lengths: list[list[int]], seed: int = 0, spread: float = 0.4) -> tuple[Tensor, GroupBatch]:
    """Log-probabilities, and a batch of normally distributed advantages with the old and the reference policy's."""
    batch = batch_of(lengths)
    logprobs_NT = random_logprobs(batch, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    batch.advantages_N = torch.randn(len(batch), generator=generator, dtype=torch.float64)
    batch.old_logprobs_NT = near(logprobs_NT, spread, seed + 2)
    batch.reference_logprobs_NT = near(logprobs_NT, spread, seed + 3)
    return logprobs_NT.requires_grad_(), batch


VARIANTS = {
    "dapo": ("dapo", GRPO()),
    "grpo": ("grpo", GRPO(aggregation="sequence")),
    "dr_grpo": ("dr_grpo", GRPO(aggregation="constant", constant_length=20, advantage_scale="none")),
    "gspo": ("grpo", GRPO(aggregation="sequence", ratio="sequence", clip_low=0.05, clip_high=0.07)),
    "gspo by token": ("dapo", GRPO(ratio="sequence", clip_low=0.05, clip_high=0.07)),
    "dapo with kl": ("dapo", GRPO(kl_coefficient=0.3)),
    "grpo with kl": ("grpo", GRPO(aggregation="sequence", kl_coefficient=0.3)),
    "gspo with kl": ("grpo", GRPO(aggregation="sequence", ratio="sequence", kl_coefficient=0.3)),
    "symmetric clipping": ("dapo", GRPO(clip_low=0.1, clip_high=0.1)),
    "no clipping below": ("dapo", GRPO(clip_low=0.99, clip_high=0.1)),
}
CORRECTIONS = {
    "token_truncate": MismatchCorrection("truncated", "token", cap=1.3),
    "token_mask": MismatchCorrection("masked", "token", cap=1.3),
    "sequence_truncate": MismatchCorrection("truncated", "sequence", cap=1.5),
    "sequence_mask": MismatchCorrection("masked", "sequence", cap=1.5),
}
"""By TRL's names."""


class TestAgainstTRL:
    """Token, sequence and constant aggregation are TRL's dapo, grpo and dr_grpo.

    They differ in the denominator where completions are masked out as a whole: TRL's grpo and dr_grpo go on counting
    them, ours does not (see `test_masked_completions_do_not_count`). Every completion here has a token that counts.
    """

    @staticmethod
    def compare(name: str, logprobs_NT: Tensor, batch: GroupBatch, mode: str = "", floor: float = 0.0) -> None:
        loss_type, grpo = VARIANTS[name]
        weights = None
        if mode:
            grpo = replace(grpo, mismatch=replace(CORRECTIONS[mode], floor=floor))
            start_NT = logprobs_NT.detach() if batch.old_logprobs_NT is None else batch.old_logprobs_NT
            weights = trl_importance_sampling_ratio(
                start_NT,
                batch.sampler_logprobs_NT,
                batch.mask_NT,
                mode=mode,
                clip_min=floor or None,
                clip_max=grpo.mismatch.cap,
            )
            assert grpo.mismatch.cap < (start_NT - batch.sampler_logprobs_NT).exp().max()
        expected = trl_grpo_loss(
            logprobs_NT,
            batch.mask_NT,
            batch.advantages_N,
            batch.old_logprobs_NT,
            batch.reference_logprobs_NT,
            loss_type=loss_type,
            level=grpo.ratio,
            clip_low=grpo.clip_low,
            clip_high=grpo.clip_high,
            kl_coefficient=grpo.kl_coefficient,
            max_completion_length=grpo.constant_length or 0,
            importance_sampling_ratio=weights,
        )
        measured = loss_of(grpo, logprobs_NT, batch)
        torch.testing.assert_close(measured, expected, rtol=1e-12, atol=1e-12)
        gradient = torch.autograd.grad(measured, logprobs_NT)[0]
        expected_gradient = torch.autograd.grad(expected, logprobs_NT)[0]
        assert expected_gradient.any()
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("name", VARIANTS)
    def test_values_and_gradients_off_policy(self, name: str) -> None:
        self.compare(name, *weighed_batch([[3, 7, 1], [5, 2, 9], [4, 4, 4]]))

    @pytest.mark.parametrize("name", VARIANTS)
    def test_values_and_gradients_while_the_sampling_policy_is_current(self, name: str) -> None:
        logprobs_NT, batch = weighed_batch([[3, 7], [5, 2]])
        self.compare(name, logprobs_NT, replace(batch, old_logprobs_NT=None))

    @pytest.mark.parametrize("name", VARIANTS)
    def test_values_and_gradients_with_tokens_masked_out(self, name: str) -> None:
        logprobs_NT, batch = weighed_batch([[3, 7], [5, 2]])
        batch.mask_NT[:, 1] = False
        self.compare(name, logprobs_NT, batch)

    @pytest.mark.parametrize("name", VARIANTS)
    @pytest.mark.parametrize("mode", CORRECTIONS)
    def test_values_and_gradients_with_the_mismatch_corrected(self, name: str, mode: str) -> None:
        logprobs_NT, batch = weighed_batch([[3, 7, 1], [5, 2, 9], [4, 4, 4]])
        batch.sampler_logprobs_NT = near(batch.old_logprobs_NT, 0.4, 9)
        self.compare(name, logprobs_NT, batch, mode)
        self.compare(name, logprobs_NT, batch, mode, floor=0.8)
        batch.mask_NT[:, 1] = False
        self.compare(name, logprobs_NT, batch, mode)

    @pytest.mark.parametrize("mode", CORRECTIONS)
    def test_values_and_gradients_with_the_mismatch_corrected_in_a_rounds_first_step(self, mode: str) -> None:
        """The trainer's own old policy is then the current one, without being given."""
        logprobs_NT, batch = weighed_batch([[3, 7, 1], [5, 2, 9], [4, 4, 4]])
        batch.sampler_logprobs_NT = near(logprobs_NT, 0.4, 9)
        self.compare("dapo", logprobs_NT, replace(batch, old_logprobs_NT=None, fresh=True), mode)


class TestByHand:
    def test_ratio_one_gives_the_negative_mean_advantage(self) -> None:
        """Two completions of 1 and 3 tokens with advantages 1 and −2."""
        batch = batch_of([[1, 3]], advantages_N=torch.tensor([1.0, -2.0]))
        logprobs_NT = torch.full((2, 3), -1.0)
        assert loss_of(GRPO(), logprobs_NT, batch).item() == pytest.approx(-(1 - 6) / 4)
        assert loss_of(GRPO(aggregation="sequence"), logprobs_NT, batch).item() == pytest.approx(-(1 - 2) / 2)
        constant = GRPO(aggregation="constant", constant_length=10)
        assert loss_of(constant, logprobs_NT, batch).item() == pytest.approx(-(1 - 6) / 20)

    @pytest.mark.parametrize(
        ("ratio", "advantage", "loss", "slope"),
        [
            (1.1, 1.0, -1.1, -1.1),
            (1.5, 1.0, -1.28, 0.0),  # has risen enough
            (0.5, 1.0, -0.5, -0.5),  # has fallen, and should rise
            (0.5, -1.0, 0.8, 0.0),  # has fallen enough
            (1.5, -1.0, 1.5, 1.5),  # has risen, and should fall
        ],
    )
    def test_clipping_cuts_what_has_gone_far_enough(
        self, ratio: float, advantage: float, loss: float, slope: float
    ) -> None:
        batch = batch_of([[1]], advantages_N=torch.tensor([advantage]), old_logprobs_NT=torch.tensor([[-2.0]]))
        logprobs_NT = (batch.old_logprobs_NT + math.log(ratio)).requires_grad_()
        terms = GRPO()(logprobs_NT, batch, GRPO().denominator(batch))
        terms.loss.backward()
        assert terms.loss.item() == pytest.approx(loss)
        assert logprobs_NT.grad.item() == pytest.approx(slope)
        assert terms.metrics["clip_ratio/region_mean"].total.item() == (slope == 0)
        assert terms.metrics["approximate_kl"].total.item() == pytest.approx(ratio - 1 - math.log(ratio), rel=1e-5)

    def test_the_sequence_ratio_is_the_geometric_mean(self) -> None:
        """Ratios 2 and 0.5 have mean 1: a token ratio would be clipped on the first."""
        batch = batch_of([[2]], advantages_N=torch.tensor([1.0]), old_logprobs_NT=torch.tensor([[-1.0, -1.0]]))
        logprobs_NT = torch.tensor([[-1 + math.log(2), -1 - math.log(2)]])
        assert loss_of(GRPO(ratio="sequence"), logprobs_NT, batch).item() == pytest.approx(-1)
        assert loss_of(GRPO(), logprobs_NT, batch).item() == pytest.approx(-(1.28 + 0.5) / 2)

    def test_kl_to_the_reference_is_k3(self) -> None:
        batch = batch_of([[1]], advantages_N=torch.tensor([0.0]), reference_logprobs_NT=torch.tensor([[-1.0]]))
        logprobs_NT = torch.tensor([[-1.5]], requires_grad=True)
        terms = GRPO(kl_coefficient=2)(logprobs_NT, batch, torch.tensor(1))
        assert terms.loss.item() == pytest.approx(2 * (math.exp(0.5) - 0.5 - 1))
        terms.loss.backward()
        assert logprobs_NT.grad.item() == pytest.approx(2 * (1 - math.exp(0.5)))  # back up, towards the reference


class TestEntropyBonus:
    def test_values_and_gradients_are_those_of_trl(self) -> None:
        logprobs_NT, batch = weighed_batch([[3, 7, 1], [5, 2, 9]])
        entropy_NT = random_logprobs(batch, 7).abs().requires_grad_()
        grpo = GRPO(entropy_coefficient=0.3)
        measured = grpo(logprobs_NT, batch, grpo.denominator(batch), entropy_NT).loss
        settings = {"entropy_NT": entropy_NT, "entropy_coefficient": 0.3}
        old_NT = batch.old_logprobs_NT
        expected = trl_grpo_loss(logprobs_NT, batch.mask_NT, batch.advantages_N, old_NT, **settings)
        torch.testing.assert_close(measured, expected, rtol=1e-12, atol=1e-12)
        gradients = (torch.autograd.grad(loss, (logprobs_NT, entropy_NT)) for loss in (measured, expected))
        for ours, theirs in zip(*gradients, strict=True):
            assert theirs.any()
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize(("aggregation", "bonus"), [("token", 1.5), ("sequence", 7 / 6), ("constant", 0.3)])
    def test_it_is_aggregated_as_the_rest(self, aggregation: Any, bonus: float) -> None:
        """Completions of 1 and 3 tokens, with entropies of ½ and of 2, 2 and 1½ nats."""
        grpo = GRPO(aggregation=aggregation, constant_length=10 if aggregation == "constant" else None)
        batch = batch_of([[1, 3]], advantages_N=torch.zeros(2))
        entropy_NT = torch.tensor([[0.5, 0, 0], [2, 2, 1.5]])
        bonus_of = replace(grpo, entropy_coefficient=2.0)
        loss = bonus_of(torch.full((2, 3), -1.0), batch, grpo.denominator(batch), entropy_NT).loss
        assert loss.item() == pytest.approx(-2 * bonus)

    def test_the_entropies_are_needed(self) -> None:
        logprobs_NT, batch = weighed_batch([[1, 1]])
        with pytest.raises(ValueError, match="entropies"):
            loss_of(GRPO(entropy_coefficient=0.1), logprobs_NT, batch)


class TestGradient:
    def test_better_than_the_group_rises_and_worse_falls(self) -> None:
        batch = batch_of([[2, 3], [1, 1]], rewards_N=torch.tensor([1.0, 0, 2, 2]), finished_N=torch.ones(4).bool())
        batch = GRPO().weigh(batch)
        logprobs_NT = random_logprobs(batch, 0).requires_grad_()
        loss_of(GRPO(), logprobs_NT, batch).backward()
        assert (logprobs_NT.grad[0, :2] < 0).all()
        assert (logprobs_NT.grad[1, :3] > 0).all()
        assert not logprobs_NT.grad[2:].any()  # nothing to learn from equal rewards
        assert not logprobs_NT.grad[~batch.mask_NT].any()


class TestWeigh:
    def ready(self, **tensors: Any) -> GroupBatch:
        batch = batch_of([[2, 3, 1], [4, 2, 2]])
        defaults = {"rewards_N": torch.tensor([1.0, 0, 1, 0, 2, 1]), "finished_N": torch.ones(6).bool()}
        return replace(batch, **(defaults | tensors))

    def test_unscored_completions_are_masked_out_and_have_no_effect(self) -> None:
        """Loss and gradient are those of the step without them."""
        grpo = GRPO(aggregation="sequence")
        rewards_N = torch.tensor([1.0, NAN, 0, 0, 2, NAN])
        batch = grpo.weigh(self.ready(rewards_N=rewards_N))
        assert batch.advantages_N[[1, 5]].tolist() == [0, 0]
        assert batch.mask_NT.any(-1).tolist() == [True, False, True, True, True, False]
        logprobs_NT = random_logprobs(batch, 0).requires_grad_()
        loss = loss_of(grpo, logprobs_NT, batch)
        gradient = torch.autograd.grad(loss, logprobs_NT)[0]

        kept = [0, 2, 3, 4]
        without = grpo.weigh(self.ready(rewards_N=rewards_N).select(kept))
        expected = loss_of(grpo, logprobs_NT[kept], without)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, logprobs_NT)[0])
        assert not gradient[[1, 5]].any()

    def test_truncated_completions_are_masked_out_if_asked_for_but_compared_with(self) -> None:
        finished_N = torch.tensor([True, False, True, True, True, False])
        ready = self.ready(finished_N=finished_N)
        masked = GRPO(mask_truncated=True).weigh(ready)
        assert masked.mask_NT.any(-1).tolist() == finished_N.tolist()
        assert torch.equal(masked.advantages_N, GRPO().weigh(ready).advantages_N)
        assert torch.equal(GRPO().weigh(ready).mask_NT, ready.mask_NT)

    @pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
    def test_masked_completions_do_not_count(self, aggregation: str) -> None:
        """TRL's grpo and dr_grpo divide by all completions, masked out or not; ours by those that count."""
        grpo = GRPO(aggregation=aggregation, constant_length=10 if aggregation == "constant" else None)
        batch = replace(grpo, mask_truncated=True).weigh(
            self.ready(finished_N=torch.tensor([True, False, True, True, True, False]))
        )
        expected = {"token": 2 + 1 + 4 + 2, "sequence": 4, "constant": 40}[aggregation]
        assert grpo.denominator(batch).item() == expected
        logprobs_NT = random_logprobs(batch, 0)
        counted = [0, 2, 3, 4]
        by_hand = {
            "token": -(batch.advantages_N * batch.lengths_N)[counted].sum() / expected,
            "sequence": -batch.advantages_N[counted].mean(),
            "constant": -(batch.advantages_N * batch.lengths_N)[counted].sum() / expected,
        }[aggregation]
        assert loss_of(grpo, logprobs_NT, batch).item() == pytest.approx(by_hand.item())

    def test_the_original_batch_is_left_as_it_was(self) -> None:
        batch = self.ready(finished_N=torch.zeros(6).bool())
        GRPO(mask_truncated=True).weigh(batch)
        assert batch.advantages_N is None and batch.mask_NT.any(-1).all()

    def test_advantage_scale_is_passed_on(self) -> None:
        batch = GRPO(advantage_scale="none").weigh(self.ready())
        assert batch.advantages_N.tolist() == pytest.approx([1 / 3, -2 / 3, 1 / 3, -1, 1, 0])

    def test_advantages_in_place_of_the_groups(self) -> None:
        batch = GRPO(advantages=BatchScaled(baseline="batch")).weigh(self.ready())
        rewards_N = self.ready().rewards_N
        expected_N = (rewards_N - rewards_N.mean()) / (rewards_N.std() + 1e-4)
        torch.testing.assert_close(batch.advantages_N, expected_N)


class TestErrors:
    def test_rewards_advantages_and_reference_are_needed(self) -> None:
        batch = batch_of([[1, 1]])
        logprobs_NT = random_logprobs(batch, 0)
        with pytest.raises(ValueError, match="rewards"):
            GRPO().weigh(batch)
        with pytest.raises(ValueError, match="advantages"):
            loss_of(GRPO(), logprobs_NT, batch)
        with pytest.raises(ValueError, match="reference"):
            loss_of(GRPO(kl_coefficient=0.1), logprobs_NT, replace(batch, advantages_N=torch.ones(2)))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"aggregation": "constant"},
            {"constant_length": 10},
            {"clip_low": 1.0},
            {"clip_low": -0.1},
            {"clip_high": -0.1},
            {"kl_coefficient": -1},
            {"entropy_coefficient": -1},
            {"advantages": BatchScaled(), "advantage_scale": "none"},
        ],
    )
    @pytest.mark.bad_input("settings")
    def test_settings_that_make_no_sense(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"constant_length|clip_low|coefficient|advantage_scale"):
            GRPO(**wrong)
