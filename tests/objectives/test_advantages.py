"""Advantages, against TRL's own and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers.step_batches import batch_of
from helpers.trl_losses import nanstd, trl_advantages, trl_rloo_advantages
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.objectives import (
    GRPO,
    Advantages,
    BatchScaled,
    GroupRelative,
    LeaveOneOut,
    PerReward,
    group_advantages,
)

NAN = math.nan
WEIGHTS = (0.5, 2.0)
MENU = {
    "group": GroupRelative(),
    "group, not scaled": GroupRelative(scale="none"),
    "leave one out": LeaveOneOut(),
    "batch": BatchScaled(),
    "batch, of rewards": BatchScaled(deviation="rewards"),
    "batch baseline": BatchScaled(baseline="batch"),
    "per reward": PerReward(),
}


def scored_batch(rewards_NK: Tensor, sizes: list[int]) -> GroupBatch:
    """Completions of one token with two rewards each."""
    rewards_N = (rewards_NK * torch.tensor(WEIGHTS, dtype=rewards_NK.dtype)).sum(-1)
    finished_N = torch.ones(len(rewards_N), dtype=torch.bool)
    scores = {"rewards_N": rewards_N, "rewards_NK": rewards_NK, "reward_weights": WEIGHTS, "finished_N": finished_N}
    return batch_of([[1] * size for size in sizes], **scores)


def random_rewards(completions: int, seed: int = 0, unscored: tuple[int, ...] = ()) -> Tensor:
    """One reward of 0 and 1, one of a wide range."""
    generator = torch.Generator().manual_seed(seed)
    right_N = (torch.rand(completions, generator=generator, dtype=torch.float64) < 0.5).double()
    wide_N = 10 * torch.randn(completions, generator=generator, dtype=torch.float64)
    rewards_NK = torch.stack([right_N, wide_N], -1)
    rewards_NK[list(unscored)] = NAN
    return rewards_NK


def advantages_of(kind: Advantages, batch: GroupBatch) -> Tensor:
    weighed = GRPO(advantages=kind).weigh(batch)
    assert weighed.advantages_N is not None
    return weighed.advantages_N


class TestGroupAdvantages:
    def test_by_hand(self) -> None:
        """Rewards 0, 0, 1, 1: mean 0.5, sample deviation √(1/3). A second group is a world of its own."""
        rewards_N, group_N = torch.tensor([0.0, 0, 1, 1, 5, 7]), torch.tensor([0, 0, 0, 0, 1, 1])
        scaled = 0.5 / (math.sqrt(1 / 3) + 1e-4)
        other = 1 / (math.sqrt(2) + 1e-4)
        expected = [-scaled, -scaled, scaled, scaled, -other, other]
        assert group_advantages(rewards_N, group_N).tolist() == pytest.approx(expected)
        assert group_advantages(rewards_N, group_N, "none").tolist() == [-0.5, -0.5, 0.5, 0.5, -1, 1]

    def test_equal_rewards_give_no_advantage(self) -> None:
        rewards_N, group_N = torch.full((8,), 0.1), torch.zeros(8, dtype=torch.long)
        assert group_advantages(rewards_N, group_N).abs().max() < 1e-3
        assert group_advantages(torch.ones(8), group_N).tolist() == [0] * 8

    def test_unscored_have_none_and_leave_the_others_as_they_were_without_them(self) -> None:
        with_them = group_advantages(torch.tensor([NAN, 0.0, 1, NAN, 2]), torch.zeros(5, dtype=torch.long))
        without = group_advantages(torch.tensor([0.0, 1, 2]), torch.zeros(3, dtype=torch.long))
        assert with_them[[0, 3]].tolist() == [0, 0]
        assert torch.equal(with_them[[1, 2, 4]], without)

    @pytest.mark.parametrize("rewards", [[NAN, NAN, NAN], [NAN, 3.0, NAN], [3.0]])
    def test_with_nothing_to_compare_there_is_no_advantage(self, rewards: list[float]) -> None:
        for scale in ("std", "none"):
            advantages_N = group_advantages(torch.tensor(rewards), torch.zeros(len(rewards), dtype=torch.long), scale)
            assert advantages_N.tolist() == [0] * len(rewards)

    @given(
        st.lists(st.lists(st.floats(-2, 2, width=32) | st.just(NAN), min_size=4, max_size=4), min_size=1, max_size=4)
    )
    def test_they_are_those_of_trl(self, rewards: list[list[float]]) -> None:
        """TRL: (r − mean) / (std + 1e-4), each over what is not NaN, and NaN advantages set to 0."""
        rewards_GK = torch.tensor(rewards, dtype=torch.float64)
        centred_GK = rewards_GK - rewards_GK.nanmean(1, keepdim=True)
        deviation_G1 = nanstd(rewards_GK, dim=1)[:, None].nan_to_num(0.0)
        expected_GK = (centred_GK / (deviation_G1 + 1e-4)).nan_to_num(0.0)
        group_N = torch.arange(len(rewards)).repeat_interleave(4)
        measured_N = group_advantages(rewards_GK.flatten(), group_N)
        torch.testing.assert_close(measured_N, expected_GK.flatten(), atol=1e-7, rtol=1e-6)


class TestAgainstTRL:
    @pytest.mark.parametrize("unscored", [(), (1, 6, 7)])
    @pytest.mark.parametrize(
        ("name", "aggregation", "scale"),
        [
            ("group", "sum_then_normalize", "group"),
            ("group, not scaled", "sum_then_normalize", "none"),
            ("batch, of rewards", "sum_then_normalize", "batch"),
            ("per reward", "normalize_then_sum", "group"),
        ],
    )
    def test_those_of_its_grpo(self, name: str, aggregation: str, scale: str, unscored: tuple[int, ...]) -> None:
        rewards_NK = random_rewards(12, unscored=unscored)
        weights_K = torch.tensor(WEIGHTS, dtype=torch.float64)
        expected_N = trl_advantages(rewards_NK, weights_K, 4, aggregation=aggregation, scale=scale)
        measured_N = advantages_of(MENU[name], scored_batch(rewards_NK, [4, 4, 4]))
        assert expected_N.any()
        torch.testing.assert_close(measured_N, expected_N, atol=1e-7, rtol=1e-7)  # its n / (n − 1) is in float32

    @pytest.mark.parametrize("unscored", [(), (1,), (0, 1, 2, 6)])
    def test_those_of_its_rloo(self, unscored: tuple[int, ...]) -> None:
        batch = scored_batch(random_rewards(12, unscored=unscored), [4, 4, 4])
        expected_N = trl_rloo_advantages(batch.rewards_N, 4)
        torch.testing.assert_close(advantages_of(LeaveOneOut(), batch), expected_N, atol=1e-12, rtol=1e-12)


class TestByHand:
    """Two groups, of rewards 0 and 1 and of 0, 0 and 3."""

    rewards_NK = torch.tensor([[0.0, 0], [2, 0], [0, 0], [0, 0], [6, 0]], dtype=torch.float64)

    def measured(self, kind: Advantages) -> list[float]:
        return advantages_of(kind, scored_batch(self.rewards_NK, [2, 3])).tolist()

    def test_leave_one_out(self) -> None:
        assert self.measured(LeaveOneOut()) == pytest.approx([-1, 1, -1.5, -1.5, 3])

    def test_one_deviation_for_all_groups(self) -> None:
        """Differences from the groups' means −½, ½, −1, −1, 2: squares sum to 6.5, over n − 1 = 4."""
        expected = [difference / (math.sqrt(6.5 / 4) + 1e-4) for difference in (-0.5, 0.5, -1, -1, 2)]
        assert self.measured(BatchScaled()) == pytest.approx(expected)

    def test_the_steps_mean_as_baseline(self) -> None:
        """Rewards 0, 1, 0, 0, 3: mean 0.8, squares of differences 6.8."""
        expected = [difference / (math.sqrt(6.8 / 4) + 1e-4) for difference in (-0.8, 0.2, -0.8, -0.8, 2.2)]
        assert self.measured(BatchScaled(baseline="batch")) == pytest.approx(expected)

    def test_a_reward_of_small_range_counts_as_much_as_one_of_large_range(self) -> None:
        """One reward prefers the first completion by 1, another the second by 100, none the third."""
        rewards_NK = torch.tensor([[1.0, 0], [0, 100], [0, 0]])
        batch = replace(scored_batch(rewards_NK, [3]), rewards_N=rewards_NK.sum(-1), reward_weights=(1.0, 1.0))
        first, second, third = advantages_of(PerReward(), batch).tolist()
        assert first == pytest.approx(second, abs=1e-3) and first == pytest.approx(-third / 2, abs=1e-3)
        assert advantages_of(GroupRelative(), batch)[0] < 0


@pytest.mark.parametrize("name", MENU)
def test_unscored_completions_have_none_and_change_nothing_for_others(name: str) -> None:
    rewards_NK = random_rewards(9, unscored=(1, 5))
    batch = scored_batch(rewards_NK, [3, 4, 2])
    kept = [0, 2, 3, 4, 6, 7, 8]
    measured_N = advantages_of(MENU[name], batch)
    assert measured_N[[1, 5]].tolist() == [0, 0]
    torch.testing.assert_close(measured_N[kept], advantages_of(MENU[name], batch.select(kept)))


def test_each_rewards_own_values_and_weight_are_needed() -> None:
    batch = scored_batch(random_rewards(4), [4])
    for lacking in (replace(batch, rewards_NK=None), replace(batch, reward_weights=())):
        with pytest.raises(ValueError, match="each reward's own values and weight"):
            advantages_of(PerReward(), lacking)
