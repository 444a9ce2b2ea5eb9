"""The bootstrap against all resamples there are, and against the normal approximation where there are many prompts."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest
import torch

from specs_lightning.metrics import bootstrap
from specs_lightning.metrics.bootstrap import mean_intervals, percentile_interval, resampled_sums

ONE_STRATUM = torch.zeros(500, dtype=torch.long)


class TestResamples:
    def test_each_comes_about_as_often_as_it_should(self) -> None:
        values = [1.0, 2.0, 4.0]
        expected = Counter(map(sum, product(values, repeat=3)))  # all 27 are equally likely
        sums = resampled_sums(torch.tensor(values)[:, None], torch.zeros(3), 27_000, seed=0)[:, 0].tolist()
        found = Counter(sums)
        assert set(found) == set(expected)
        for total, ways in expected.items():
            assert found[total] == pytest.approx(1000 * ways, abs=5 * math.sqrt(1000 * ways))

    def test_columns_are_drawn_together(self) -> None:
        values = torch.rand(500, generator=torch.Generator().manual_seed(0)).double()
        sums = resampled_sums(torch.stack([values, 2 * values], 1), ONE_STRATUM, 100, seed=1)
        torch.testing.assert_close(sums[:, 1], 2 * sums[:, 0])

    def test_each_stratum_keeps_its_size(self) -> None:
        strata = torch.tensor([0, 1, 1, 1, 2])
        sums = resampled_sums(torch.eye(3)[strata], strata, 50, seed=0)
        assert torch.equal(sums, torch.tensor([[1.0, 3.0, 1.0]], dtype=torch.float64).expand(50, 3))

    def test_the_spread_is_that_of_a_mean(self) -> None:
        values = torch.rand(500, 1, generator=torch.Generator().manual_seed(0)).double()
        means = resampled_sums(values, ONE_STRATUM, 10_000, seed=0) / 500
        assert means.mean().item() == pytest.approx(values.mean().item(), abs=1e-3)
        assert means.std().item() == pytest.approx(values.std(correction=0).item() / math.sqrt(500), rel=0.03)

    def test_the_seed_determines_them(self) -> None:
        values = torch.rand(500, 1)
        first, again, other = (resampled_sums(values, ONE_STRATUM, 20, seed) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_few_at_a_time_are_drawn_alike(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = torch.rand(500, 1).round()
        expected = resampled_sums(values, ONE_STRATUM, 20, seed=0)
        monkeypatch.setattr(bootstrap, "DRAWS_IN_MEMORY", 1500)
        assert torch.equal(resampled_sums(values, ONE_STRATUM, 20, seed=0), expected)

    def test_no_prompts_sum_to_nothing(self) -> None:
        assert torch.equal(resampled_sums(torch.zeros(0, 2), torch.zeros(0), 3, 0), torch.zeros(3, 2).double())


class TestMeans:
    def test_they_lie_where_the_normal_approximation_has_them(self) -> None:
        values = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)).double()
        values[::5, 1] = math.nan
        for measure, interval in zip(values.T, mean_intervals(values), strict=True):
            known = measure[~measure.isnan()]
            mean, half = known.mean().item(), 1.96 * known.std().item() / math.sqrt(len(known))
            assert interval == pytest.approx((mean - half, mean + half), abs=0.1 * half)

    def test_what_is_not_known_has_none(self) -> None:
        (interval,) = mean_intervals(torch.tensor([[math.nan], [math.nan]]))
        assert all(map(math.isnan, interval))


class TestInterval:
    def test_the_middle_of_the_values(self) -> None:
        values = torch.randperm(1001, generator=torch.Generator().manual_seed(0)).double()
        assert percentile_interval(values) == pytest.approx((25, 975))
        assert percentile_interval(values, level=0.5) == pytest.approx((250, 750))

    def test_one_resample_without_a_value_leaves_no_interval(self) -> None:
        assert all(map(math.isnan, percentile_interval(torch.tensor([0.0, math.nan, 1.0]))))
