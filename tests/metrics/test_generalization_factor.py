"""The Generalization Factor: hand-worked cases, the paper's figure, and what must hold for any gains."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from specs_lightning.metrics import GeneralizationFactor, gain, generalization_factor

GAINS = st.floats(1e-6, 1.0)
BETAS = st.floats(0.1, 10.0)


class TestFormula:
    @pytest.mark.parametrize(
        ("gain_id", "gain_ood", "beta", "expected"),
        [
            (0.2, 0.1, 2.0, 5 * 0.02 / (0.8 + 0.1)),
            (0.1, 0.2, 2.0, 5 * 0.02 / (0.4 + 0.2)),
            (0.2, 0.1, 1.0, 2 * 0.02 / 0.3),  # the harmonic mean
            (0.2, 0.1, 0.5, 1.25 * 0.02 / (0.05 + 0.1)),
            (1.0, 1.0, 2.0, 1.0),
        ],
    )
    def test_hand_worked(self, gain_id: float, gain_ood: float, beta: float, expected: float) -> None:
        assert generalization_factor(gain_id, gain_ood, beta) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("score_id", "score_ood", "printed"), [(98.7, 94.6, 95.4), (98.7, 89.7, 91.4), (98.0, 69.2, 73.5)]
    )
    def test_the_papers_figure_follows_from_raw_scores(self, score_id: float, score_ood: float, printed: float) -> None:
        gains = (gain(score_id, 30.0, "raw"), gain(score_ood, 20.0, "raw"))
        assert generalization_factor(*gains, beta=2.0) == pytest.approx(printed, abs=0.06)

    @given(GAINS, GAINS, BETAS)
    def test_it_lies_between_the_gains(self, gain_id: float, gain_ood: float, beta: float) -> None:
        value = generalization_factor(gain_id, gain_ood, beta)
        assert min(gain_id, gain_ood) * (1 - 1e-9) <= value <= max(gain_id, gain_ood) * (1 + 1e-9)

    @given(GAINS, BETAS)
    def test_of_equal_gains_it_is_that_gain(self, both: float, beta: float) -> None:
        assert generalization_factor(both, both, beta) == pytest.approx(both)

    @given(GAINS, GAINS, GAINS, BETAS)
    def test_it_rises_with_either_gain(self, gain_id: float, gain_ood: float, more: float, beta: float) -> None:
        value = generalization_factor(gain_id, gain_ood, beta)
        assert generalization_factor(gain_id + more, gain_ood, beta) >= value * (1 - 1e-9)
        assert generalization_factor(gain_id, gain_ood + more, beta) >= value * (1 - 1e-9)

    @given(GAINS, GAINS)
    def test_above_one_beta_weighs_the_gain_out_of_distribution_more(self, one: float, other: float) -> None:
        low, high = sorted((one, other))
        assume(high > low * 1.001)
        assert generalization_factor(low, high, 2.0) > generalization_factor(high, low, 2.0)

    @given(st.floats(-1.0, 0.0), st.floats(-1.0, 1.0), BETAS)
    def test_it_is_zero_where_a_gain_is_not_positive(self, lost: float, other: float, beta: float) -> None:
        assert generalization_factor(lost, other, beta) == generalization_factor(other, lost, beta) == 0.0


class TestGain:
    def test_kinds(self) -> None:
        assert gain(0.6, 0.4, "difference") == pytest.approx(0.2)
        assert gain(0.6, 0.4, "relative") == pytest.approx(0.5)
        assert gain(0.6, 0.4, "raw") == 0.6

    def test_relative_to_nothing_there_is_no_gain_to_tell(self) -> None:
        assert math.isnan(gain(0.6, 0.0, "relative"))
        assert math.isnan(generalization_factor(gain(0.6, 0.0, "relative"), 0.5))


class TestMetric:
    def test_scores_and_gains_over_a_baseline(self) -> None:
        metric = GeneralizationFactor({"boxed": 1.0, "json": 3.0})
        metric.baseline = {"id": 0.5, "boxed": 0.25, "json": 0.25}
        metric.update("id", torch.tensor([1.0, 1.0, 1.0, 0.0]))
        metric.update("boxed", torch.tensor([1.0]))
        metric.update("boxed", torch.tensor([0.0]))
        metric.update("json", torch.tensor([1.0, 0.0]))
        assert metric.scores() == {"id": 0.75, "boxed": 0.5, "json": 0.5}
        found = metric.compute()
        assert found["gain_id"] == pytest.approx(0.25)
        assert found["gain_ood"] == pytest.approx(0.25)
        assert found["generalization_factor"] == pytest.approx(0.25)

    def test_weights_are_normalised(self) -> None:
        metric = GeneralizationFactor({"boxed": 1.0, "json": 3.0}, kind="raw")
        metric.update("id", torch.tensor([1.0]))
        metric.update("boxed", torch.tensor([1.0]))
        metric.update("json", torch.tensor([0.0]))
        assert metric.compute()["gain_ood"] == pytest.approx(0.25)

    def test_what_could_not_be_judged_is_left_out(self) -> None:
        metric = GeneralizationFactor({"ood": 1.0})
        metric.update("id", torch.tensor([1.0, math.nan, 0.0]))
        metric.update("ood", torch.tensor([math.nan]))
        scores = metric.scores()
        assert scores["id"] == 0.5
        assert math.isnan(scores["ood"])

    def test_without_a_baseline_gains_are_over_nothing(self) -> None:
        metric = GeneralizationFactor({"ood": 1.0})
        metric.update("id", torch.tensor([1.0, 0.0]))
        metric.update("ood", torch.tensor([1.0, 0.0]))
        assert metric.compute()["gain_id"] == 0.5

    def test_a_reset_leaves_the_baseline(self) -> None:
        metric = GeneralizationFactor({"ood": 1.0})
        metric.baseline = {"id": 0.5, "ood": 0.5}
        metric.update("id", torch.tensor([1.0]))
        metric.reset()
        metric.update("id", torch.tensor([0.0]))
        assert metric.scores()["id"] == 0.0
        assert metric.baseline == {"id": 0.5, "ood": 0.5}

    @pytest.mark.parametrize(("weights", "beta"), [({}, 2.0), ({"a": 0.0}, 2.0), ({"a": -1.0}, 2.0), ({"a": 1.0}, 0.0)])
    def test_settings_out_of_range(self, weights: dict[str, float], beta: float) -> None:
        with pytest.raises(ValueError, match="must be positive"):
            GeneralizationFactor(weights, beta=beta)

    def test_an_unknown_set(self) -> None:
        with pytest.raises(ValueError, match="other"):
            GeneralizationFactor({"ood": 1.0}).update("other", torch.tensor([1.0]))
