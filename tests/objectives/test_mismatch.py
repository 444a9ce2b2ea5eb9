"""What is done where rollout engine and trainer disagree. Against TRL's own code: test_grpo.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.step_batches import batch_of
from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.objectives import GRPO, MismatchCorrection
from specs_lightning.objectives.base import Part


def batch_with_weights(weight_NT: list[list[float]], **tensors: Any) -> GroupBatch:
    """One group, whose tokens the engine gave a probability of 1/100, and the trainer `weight` times as much."""
    lengths = [len(row) for row in weight_NT]
    log_weight_NT = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.float64).log() for row in weight_NT], batch_first=True
    )
    batch = batch_of([lengths])
    sampler_NT = torch.full(batch.mask_NT.shape, math.log(0.01), dtype=torch.float64) * batch.mask_NT
    return replace(batch, sampler_logprobs_NT=sampler_NT, old_logprobs_NT=sampler_NT + log_weight_NT, **tensors)


def arguments(batch: GroupBatch) -> tuple[Tensor, Tensor, Tensor]:
    assert batch.old_logprobs_NT is not None and batch.sampler_logprobs_NT is not None
    return batch.old_logprobs_NT, batch.sampler_logprobs_NT, batch.mask_NT


def values(parts: dict[str, Part]) -> dict[str, float]:
    return {name.removeprefix("mismatch/"): part.value.item() for name, part in parts.items()}


def measured(correction: MismatchCorrection, batch: GroupBatch) -> dict[str, float]:
    return values(correction.measure(*arguments(batch)) | correction.gap(*arguments(batch)))


class TestWeights:
    batch = batch_with_weights([[0.5, 1.0, 4.0], [3.0, 0.25]])

    @pytest.mark.parametrize(
        ("correction", "expected"),
        [
            (MismatchCorrection("truncated"), [[0.5, 1, 2], [2, 0.25, 1]]),
            (MismatchCorrection("truncated", cap=3.5, floor=0.4), [[0.5, 1, 3.5], [3, 0.4, 1]]),
            (MismatchCorrection("masked"), [[0.5, 1, 0], [0, 0.25, 1]]),
            (MismatchCorrection("masked", cap=3.5, floor=0.4), [[0.5, 1, 0], [3, 0, 1]]),
            (MismatchCorrection("truncated", "sequence", cap=1.5), [[1.5], [0.75]]),
            (MismatchCorrection("truncated", "sequence", floor=0.9), [[2], [0.9]]),
            (MismatchCorrection("masked", "sequence", cap=1.5), [[0], [0.75]]),
            (MismatchCorrection("masked", "sequence", cap=3.0, floor=0.9), [[2], [0]]),
        ],
    )
    def test_by_hand(self, correction: MismatchCorrection, expected: list[list[float]]) -> None:
        """Padding has a weight of 1, which the loss does not use."""
        weight = correction.weights(*arguments(self.batch))
        torch.testing.assert_close(weight, torch.tensor(expected, dtype=torch.float64))

    def test_tokens_that_do_not_count_are_no_part_of_a_completions_weight(self) -> None:
        batch = batch_with_weights([[0.5, 1.0, 4.0]])
        batch.mask_NT[0, 2] = False
        weight = MismatchCorrection("truncated", "sequence").weights(*arguments(batch))
        assert weight.tolist() == [[pytest.approx(0.5)]]

    def test_without_a_correction_every_token_weighs_the_same(self) -> None:
        for level in ("token", "sequence"):
            assert (MismatchCorrection("none", level).weights(*arguments(self.batch)) == 1).all()


class TestLoss:
    def test_a_mean_over_the_engines_samples_is_the_one_over_the_trainers(self) -> None:
        """The engine answers a three times out of four, the trainer would every second time; b otherwise."""
        sampler_N1 = torch.tensor([3 / 4, 3 / 4, 3 / 4, 1 / 4]).log()[:, None]
        old_N1 = torch.tensor([1 / 2] * 4).log()[:, None]
        batch = batch_of(
            [[1, 1, 1, 1]],
            advantages_N=torch.tensor([-2.0, -2.0, -2.0, 5.0]),
            sampler_logprobs_NT=sampler_N1,
            old_logprobs_NT=old_N1,
        )

        def gradient(grpo: GRPO) -> Tensor:
            """By the log-probabilities of a and b."""
            logprobs_N1 = old_N1.clone().requires_grad_()
            grpo(logprobs_N1, batch, grpo.denominator(batch)).loss.backward()
            assert logprobs_N1.grad is not None
            return torch.stack([logprobs_N1.grad[:3].sum(), logprobs_N1.grad[3].sum()])

        for level in ("token", "sequence"):
            corrected = gradient(GRPO(mismatch=MismatchCorrection("truncated", level, cap=math.inf)))
            torch.testing.assert_close(corrected, torch.tensor([2.0 / 2, -5.0 / 2]))
        torch.testing.assert_close(gradient(GRPO()), torch.tensor([2.0 * 3 / 4, -5.0 / 4]))

    @pytest.mark.parametrize("kind", ["truncated", "masked"])
    def test_what_is_weighed_by_zero_goes_on_counting(self, kind: str) -> None:
        """As in TRL: the divisor is the number of tokens, whatever they weigh."""
        batch = batch_with_weights([[1.0, 5.0], [0.5]], advantages_N=torch.tensor([1.0, 1.0], dtype=torch.float64))
        grpo = GRPO(mismatch=MismatchCorrection(kind, cap=2.0))
        assert grpo.denominator(batch).item() == 3
        assert batch.old_logprobs_NT is not None
        logprobs_NT = batch.old_logprobs_NT.clone().requires_grad_()
        loss = grpo(logprobs_NT, batch, grpo.denominator(batch)).loss
        assert loss.item() == pytest.approx(-(1 + (2 if kind == "truncated" else 0) + 0.5) / 3)
        loss.backward()
        assert logprobs_NT.grad is not None
        assert (logprobs_NT.grad[0, 1] == 0) == (kind == "masked")

    def test_the_ratio_is_to_the_trainers_old_policy_and_without_a_correction_to_the_engines(self) -> None:
        batch = batch_with_weights([[1.25, 0.5]], advantages_N=torch.tensor([1.0], dtype=torch.float64))
        assert batch.old_logprobs_NT is not None
        logprobs_NT = batch.old_logprobs_NT + math.log(1.1)

        def loss(batch: GroupBatch, kind: str) -> float:
            grpo = GRPO(mismatch=MismatchCorrection(kind))
            return grpo(logprobs_NT, batch, grpo.denominator(batch)).loss.item()

        assert loss(batch, "truncated") == pytest.approx(-(1.1 * 1.25 + 1.1 * 0.5) / 2)
        without = replace(batch, old_logprobs_NT=None)
        assert loss(without, "none") == loss(replace(without, fresh=True), "none")
        assert loss(without, "none") == pytest.approx(-(1.28 + 1.1 * 0.5) / 2)  # 1.375 is clipped

    def test_in_a_rounds_first_step_the_current_policy_is_the_old_one(self) -> None:
        """The loss is −A·w, its gradient that of a ratio of 1: none goes through the weight, bounded or not."""
        given = batch_with_weights([[1.5, 0.5, 4.0]], advantages_N=torch.tensor([1.0], dtype=torch.float64))
        assert given.old_logprobs_NT is not None
        logprobs_NT = given.old_logprobs_NT.clone().requires_grad_()
        grpo = GRPO(mismatch=MismatchCorrection("truncated"))
        terms = grpo(logprobs_NT, replace(given, old_logprobs_NT=None, fresh=True), torch.tensor(2))
        terms.loss.backward()
        assert terms.loss.item() == pytest.approx(-(1.5 + 0.5 + 2) / 2)
        assert logprobs_NT.grad is not None
        assert logprobs_NT.grad[0].tolist() == pytest.approx([-0.75, -0.25, -1])
        assert terms.metrics.keys() == grpo(logprobs_NT, given, torch.tensor(2)).metrics.keys()

    def test_both_sides_log_probabilities_are_needed_to_correct(self) -> None:
        batch = batch_with_weights([[1.0, 2.0]], advantages_N=torch.tensor([1.0], dtype=torch.float64))
        logprobs_NT, *_ = arguments(batch)
        grpo = GRPO(mismatch=MismatchCorrection("masked"))
        for lacking in ({"old_logprobs_NT": None}, {"sampler_logprobs_NT": None}):
            with pytest.raises(ValueError, match=r"mismatch\.kind masked needs log-probabilities of the engine"):
                grpo(logprobs_NT, replace(batch, **lacking), torch.tensor(2))


class TestMeasures:
    batch = batch_with_weights([[0.5, 1.0, 4.0], [3.0, 0.25]])

    @pytest.mark.parametrize("kind", ["none", "truncated", "masked"])
    def test_they_are_of_the_weights_before_any_bounds(self, kind: str) -> None:
        gap = math.log(2) + 0 + math.log(4) + math.log(3) + math.log(4)
        by_token = measured(MismatchCorrection(kind), self.batch)
        assert by_token["mean"] == pytest.approx(gap / 5)
        assert by_token["max"] == pytest.approx(math.log(4))
        assert by_token["effective_sample_size"] == pytest.approx(
            (0.5 + 1 + 4 + 3 + 0.25) ** 2 / (5 * (0.25 + 1 + 16 + 9 + 0.0625))
        )
        by_sequence = measured(MismatchCorrection(kind, "sequence"), self.batch)
        assert (by_sequence["mean"], by_sequence["max"]) == (by_token["mean"], by_token["max"])
        assert by_sequence["effective_sample_size"] == pytest.approx((2 + 0.75) ** 2 / (2 * (4 + 0.5625)))

    def test_what_is_out_of_bounds_is_counted_where_there_are_bounds(self) -> None:
        assert "out_of_bounds" not in measured(MismatchCorrection(), self.batch)
        by_token = measured(MismatchCorrection("truncated", cap=3.5, floor=0.4), self.batch)
        assert by_token["out_of_bounds"] == pytest.approx(2 / 5)
        by_sequence = measured(MismatchCorrection("masked", "sequence", cap=1.5), self.batch)
        assert by_sequence["out_of_bounds"] == pytest.approx(1 / 2)

    @pytest.mark.parametrize("level", ["token", "sequence"])
    def test_what_does_not_count_is_left_out(self, level: str) -> None:
        batch = batch_with_weights([[1.0, 9.0], [2.0, 2.0], [7.0, 7.0]])
        batch.mask_NT[:] = torch.tensor([[True, False], [True, True], [False, False]])
        expected = batch_with_weights([[1.0], [2.0, 2.0]])
        correction = MismatchCorrection("masked", level)
        assert measured(correction, batch) == pytest.approx(measured(correction, expected))

    @pytest.mark.parametrize("level", ["token", "sequence"])
    def test_an_engine_that_agrees_loses_no_sample(self, level: str) -> None:
        found = measured(MismatchCorrection("none", level), batch_with_weights([[1.0] * 9] * 3))
        assert found == {"mean": 0, "max": 0, "effective_sample_size": 1}

    def test_a_completion_that_is_far_off_leaves_them_finite(self) -> None:
        """In float32, where its weight alone would be infinite."""
        batch = batch_with_weights([[2.0] * 200, [1.0] * 200])
        old_NT, sampler_NT, mask_NT = arguments(batch)
        correction = MismatchCorrection("truncated", "sequence")
        found = values(correction.measure(old_NT.float(), sampler_NT.float(), mask_NT))
        assert found["effective_sample_size"] == pytest.approx(1 / 2)
        assert correction.weights(old_NT.float(), sampler_NT.float(), mask_NT).tolist() == [[2.0], [1.0]]

    @pytest.mark.parametrize("level", ["token", "sequence"])
    def test_where_nothing_counts_they_are_zero(self, level: str) -> None:
        batch = batch_with_weights([[2.0, 3.0]])
        batch.mask_NT[:] = False
        for empty in (batch, batch.select([])):
            assert set(measured(MismatchCorrection("masked", level), empty).values()) == {0.0}

    def test_what_truncation_takes_away_is_no_gap_but_a_weight(self) -> None:
        """The engine drew from three quarters of the trainer's distribution, and from half of it."""
        batch = batch_with_weights([[0.75, 0.5, 0.5]])
        kept_NT = torch.tensor([[0.75, 0.5, 0.25]], dtype=torch.float64).log()  # at the last, a quarter by the trainer
        found = values(MismatchCorrection("truncated").gap(*arguments(batch), kept_NT))
        assert found["mean"] == pytest.approx(math.log(2) / 3)
        assert found["max"] == pytest.approx(math.log(2))
        assert found["kept_probability"] == pytest.approx((0.75 + 0.5 + 0.25) / 3)
        assert MismatchCorrection("truncated").weights(*arguments(batch)).tolist() == [pytest.approx([0.75, 0.5, 0.5])]


class TestTruncatedSampling:
    def test_the_gradient_is_that_of_the_policy_over_what_is_kept(self) -> None:
        """Of a, b and c the engine draws the first two. Both in the proportion that it gives them."""
        policy_V = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().requires_grad_()
        reward_2 = torch.tensor([1.0, -2.0], dtype=torch.float64)
        drawn_N = torch.tensor([0] * 5 + [1] * 3)  # 0.5 and 0.3, of 0.8
        logprobs_N1 = policy_V.log_softmax(-1)[drawn_N][:, None]
        batch = batch_of(
            [[1] * 8],
            advantages_N=reward_2[drawn_N],
            sampler_logprobs_NT=(logprobs_N1 - math.log(0.8)).detach(),
            fresh=True,
            truncation=lambda logits: logits,
        )
        grpo = GRPO(mismatch=MismatchCorrection("truncated"))
        grpo(logprobs_N1, batch, grpo.denominator(batch)).loss.backward()
        kept_2 = policy_V.detach().exp()[:2]
        score_2V = torch.eye(3, dtype=torch.float64)[:2] - policy_V.detach().exp()  # of the softmax, by hand
        torch.testing.assert_close(policy_V.grad, -(kept_2 * reward_2) @ score_2V)

    def test_the_gap_is_measured_where_what_is_kept_is_known(self) -> None:
        """That is in a round's first step."""
        given = batch_with_weights([[0.5, 0.5]], advantages_N=torch.tensor([1.0], dtype=torch.float64))
        cut = replace(given, truncation=lambda logits: logits)
        grpo = GRPO(mismatch=MismatchCorrection("truncated"))

        def told(batch: GroupBatch) -> dict[str, float]:
            assert given.old_logprobs_NT is not None
            metrics = grpo(given.old_logprobs_NT, batch, grpo.denominator(batch)).metrics
            return {name: part for name, part in values(metrics).items() if name in ("mean", "out_of_bounds")}

        assert told(given) == {"mean": pytest.approx(math.log(2)), "out_of_bounds": 0}
        assert told(cut) == {"out_of_bounds": 0}
        kept_NT = torch.full_like(given.old_logprobs_NT, math.log(0.5))
        assert told(replace(cut, kept_logmass_NT=kept_NT)) == {"mean": pytest.approx(0), "out_of_bounds": 0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"cap": 0.9},
        {"floor": 1.1},
        {"floor": -0.1},
        {"cap": math.nan},
        {"warn_above": 0.0},
        {"warn_above": -1.0},
        {"warn_above": math.nan},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"floor and cap|warn_above"):
        MismatchCorrection("truncated", **wrong)
