"""The Generalization Factor: hand-worked cases, the paper's figure, and what must hold for any gains."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from specs_lightning.metrics import GainKind, GeneralizationFactor, gain, generalization_factor
from specs_lightning.statistics.set_kinds import kind_weights

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


class TestBaselineAnswers:
    def test_answers_so_far_become_the_baseline(self) -> None:
        metric = GeneralizationFactor({"ood": 1.0})
        metric.update("id", torch.tensor([1.0, 0.0, math.nan]))
        metric.update("ood", torch.tensor([0.0]))
        assert metric.compute()["gain_id"] == 0.5
        metric.keep_as_baseline()
        assert metric.compute()["gain_id"] == 0.0
        metric.reset()
        metric.update("id", torch.tensor([1.0]))
        metric.update("ood", torch.tensor([1.0]))
        assert metric.baseline == {"id": 0.5, "ood": 0.0}
        assert metric.compute()["gain_id"] == 0.5

    def test_ids_must_be_as_many_as_scores(self) -> None:
        with pytest.raises(ValueError, match="2 scores, but 1 prompt ids"):
            GeneralizationFactor({"ood": 1.0}).update("id", torch.zeros(2), ["a"])


def answered(
    scores: dict[str, torch.Tensor], baseline: dict[str, torch.Tensor] | None = None, ids: bool = True, **settings: Any
) -> GeneralizationFactor:
    """A metric with a set for each entry, the first in distribution; prompts have ids by their place in it."""
    id_name, *ood_names = scores
    metric = GeneralizationFactor(dict.fromkeys(ood_names, 1.0), id_name, **settings)
    for answers in (baseline, scores):
        metric.reset()
        for name, values in (answers or {}).items():
            prompt_ids = [str(row) for row, drawn in enumerate(values) for _ in range(drawn.numel())]
            metric.update(name, values, prompt_ids if ids else None)
        if answers is baseline and baseline is not None:
            metric.keep_as_baseline()
    return metric


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


class TestIntervals:
    DRAW = torch.Generator().manual_seed(0)
    LUCK = torch.rand(3, 500, generator=DRAW).double()

    def sets(self, success: float, shared: bool = False) -> dict[str, torch.Tensor]:
        """A prompt is solved by every policy whose success exceeds the prompt's difficulty."""
        luck = self.LUCK[:1].expand(3, -1) if shared else self.LUCK
        return {name: (luck[i] < success).double() for i, name in enumerate(("id", "one", "two"))}

    def test_of_a_difference_paired_by_prompt(self) -> None:
        metric = answered(self.sets(0.6), self.sets(0.3))
        gained = self.sets(0.6)["id"] - self.sets(0.3)["id"]
        low, high = metric.intervals()["gain_id"]
        half = 1.96 * gained.std().item() / math.sqrt(500)
        assert low == pytest.approx(gained.mean().item() - half, abs=0.004)
        assert high == pytest.approx(gained.mean().item() + half, abs=0.004)

    def test_the_factor_is_that_of_the_resampled_gains(self) -> None:
        """Worked by hand: one prompt a set has one resample alone."""
        sets = {"id": torch.tensor([[1.0, 0.0]]), "ood": torch.tensor([[1.0, 1.0, 1.0, 0.0]])}
        assert answered(sets).intervals(resamples=5) == {
            "gain_id": (0.5, 0.5),
            "gain_ood": (0.75, 0.75),
            "generalization_factor": pytest.approx((generalization_factor(0.5, 0.75),) * 2),
        }

    def test_against_all_resamples_of_three_prompts(self) -> None:
        """Prompts with unequal numbers of answers, so that a mean is over answers; 27 resamples, equally likely."""
        answers = [torch.tensor([1.0, math.nan]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])]
        metric = answered({"id": torch.stack(answers), "ood": torch.ones(3, 2)})
        known = [values[~values.isnan()] for values in answers]
        means = [torch.cat([known[i] for i in drawn]).mean() for drawn in itertools.product(range(3), repeat=3)]
        exact = torch.stack(means).double().sort().values
        for level in (0.5, 0.7, 0.9):
            found = metric.intervals(level, resamples=20_000)["gain_id"]
            tail = (1 - level) / 2
            assert found == pytest.approx((exact[int(27 * tail)].item(), exact[math.ceil(27 * (1 - tail)) - 1].item()))

    def test_the_point_lies_within(self) -> None:
        metric = answered(self.sets(0.6), self.sets(0.3))
        found, intervals = metric.compute(), metric.intervals()
        assert found.keys() == intervals.keys()
        for name, value in found.items():
            assert intervals[name].low < value < intervals[name].high

    def test_pairing_tells_more_than_means(self) -> None:
        """The same answers as before: no gain, for certain, which two means on their own cannot know."""
        paired = answered(self.sets(0.5), self.sets(0.5))
        assert paired.intervals()["gain_ood"] == (0.0, 0.0)
        unpaired = answered(self.sets(0.5), self.sets(0.5), ids=False)
        expected = 2 * 1.96 * math.sqrt(2 * 0.25 / 500)
        assert width(unpaired.intervals()["gain_id"]) == pytest.approx(expected, rel=0.08)

    def test_a_baseline_of_mean_scores_counts_as_certain(self) -> None:
        metric = answered(self.sets(0.5))
        metric.baseline = {"id": 0.2, "one": 0.2, "two": 0.2}
        interval = metric.intervals()["gain_id"]
        assert width(interval) == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 500), rel=0.08)
        assert interval.low < metric.compute()["gain_id"] < interval.high

    def test_questions_asked_in_several_sets_are_drawn_together(self) -> None:
        """Of two sets that ask the same questions, the second says nothing new: the interval is that of one."""
        one_set = width(answered({"id": self.LUCK[1], "one": (self.LUCK[0] < 0.5).double()}).intervals()["gain_ood"])
        shared = width(answered(self.sets(0.5, shared=True)).intervals()["gain_ood"])
        others = width(answered(self.sets(0.5), ids=False).intervals()["gain_ood"])
        assert shared == pytest.approx(one_set, rel=0.05)
        assert others == pytest.approx(one_set / math.sqrt(2), rel=0.08)

    def test_answers_to_one_prompt_are_no_independent_evidence(self) -> None:
        solved = self.sets(0.5)
        eight_alike = {name: values[:, None].expand(-1, 8) for name, values in solved.items()}
        assert answered(eight_alike).intervals() == answered(solved).intervals()

    @pytest.mark.parametrize("ids", [True, False])
    def test_the_order_of_answers_does_not_matter(self, ids: bool) -> None:
        metric, turned = (GeneralizationFactor({"ood": 1.0}) for _ in range(2))
        scores, names = torch.tensor([1.0, 0.0, 0.5, math.nan] * 5), [str(i) for i in range(20)]
        for name in ("id", "ood"):
            metric.update(name, scores, names if ids else None)
        for name in ("ood", "id"):
            turned.update(name, scores.flip(0)[:2], names[::-1][:2] if ids else None)
            turned.update(name, scores.flip(0)[2:], names[::-1][2:] if ids else None)
        assert turned.intervals() == metric.intervals()

    def test_the_seed_determines_it(self) -> None:
        metric = answered(self.sets(0.6), self.sets(0.3))
        assert metric.intervals() == metric.intervals()
        assert metric.intervals(seed=1) != metric.intervals()

    def test_a_higher_level_is_wider(self) -> None:
        metric = answered(self.sets(0.6), self.sets(0.3))
        narrow, wide = metric.intervals(0.5), metric.intervals(0.99)
        assert all(wide[name].low < narrow[name].low < narrow[name].high < wide[name].high for name in wide)

    def test_of_no_answers_there_is_none(self) -> None:
        for metric in (GeneralizationFactor({"ood": 1.0}), answered({"id": self.LUCK[0], "ood": torch.zeros(0)})):
            assert all(map(math.isnan, metric.intervals()["generalization_factor"]))

    def test_relative_to_a_base_that_may_have_solved_nothing_there_is_none(self) -> None:
        base = {"id": torch.tensor([1.0] + [0.0] * 9), "ood": torch.ones(10)}
        metric = answered({"id": torch.ones(10), "ood": torch.ones(10)}, base, kind="relative")
        assert metric.compute()["gain_id"] == pytest.approx(9.0)
        assert all(map(math.isnan, metric.intervals()["gain_id"]))

    def test_eight_sets_of_500_prompts_take_well_under_a_second(self) -> None:
        sets = {name: torch.rand(500).round() for name in ("id", "f/a", "f/b", "f/c", "t/a", "l/a", "l/b", "l/c")}
        metric = answered(sets, sets)
        start = time.perf_counter()
        metric.intervals(resamples=2000)
        assert time.perf_counter() - start < 1.0


class TestKinds:
    SETS: ClassVar[dict[str, float]] = {
        "formats/a": 0.5,
        "looks/a": 0.7,
        "formats/b": 0.4,
        "plain": 0.6,
        "tasks/a": 0.3,
    }
    WEIGHTS: ClassVar[dict[str, float]] = dict(zip(SETS, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))

    def answers(self, seed: int, more: float) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(seed)
        sets = {"id": 0.6, **self.SETS}
        return {name: (torch.rand(60, generator=draw) < share + more).double() for name, share in sets.items()}

    def metric(self, weights: dict[str, float], **settings: Any) -> GeneralizationFactor:
        """Of the sets that have weights; all ask the same prompts."""
        metric = GeneralizationFactor(weights, **settings)
        for answers in (self.answers(0, 0.0), self.answers(1, 0.2)):
            metric.reset()
            for name in ("id", *weights):
                metric.update(name, answers[name], [str(prompt) for prompt in range(60)])
            if metric.baseline is None:
                metric.keep_as_baseline()
        return metric

    @pytest.mark.parametrize("kind", ["difference", "relative", "raw"])
    @pytest.mark.parametrize("given", [True, False])
    def test_gains_and_factors_of_each_kind_against_numpy(self, kind: GainKind, given: bool) -> None:
        weights = self.WEIGHTS if given else kind_weights(self.SETS)
        found = self.metric(weights, kind=kind).compute()
        base, mine = (
            {name: float(np.mean(scores.numpy())) for name, scores in self.answers(*how).items()}
            for how in ((0, 0.0), (1, 0.2))
        )
        gain_id = gain(mine["id"], base["id"], kind)
        groups = {"": [*self.SETS]} | {f"/{one}": [f"{one}/a"] for one in ("looks", "tasks")}
        for end, names in (groups | {"/formats": ["formats/a", "formats/b"]}).items():
            alpha = [weights[name] for name in names]
            before, after = (np.average([of[name] for name in names], weights=alpha) for of in (base, mine))
            gain_ood = gain(float(after), float(before), kind)
            assert found.pop(f"gain_ood{end}") == pytest.approx(gain_ood)
            assert found.pop(f"generalization_factor{end}") == pytest.approx(generalization_factor(gain_id, gain_ood))
        assert found == {"gain_id": pytest.approx(gain_id)}

    @pytest.mark.parametrize("kind", ["formats", "looks", "tasks"])
    def test_intervals_of_a_kind_are_those_of_its_sets_alone(self, kind: str) -> None:
        """All sets ask the same prompts, so that the same are drawn however many sets there are."""
        alone = {name: weight for name, weight in self.WEIGHTS.items() if name.startswith(kind)}
        whole, part = self.metric(self.WEIGHTS).intervals(), self.metric(alone).intervals()
        for name in ("gain_ood", "generalization_factor"):
            assert whole[f"{name}/{kind}"] == pytest.approx(part[name])
            assert part[name] == part[f"{name}/{kind}"]

    def test_a_set_that_nobody_could_judge_leaves_other_kinds_known(self) -> None:
        metric = GeneralizationFactor({"formats/a": 1.0, "looks/a": 1.0})
        for name, score in (("id", 1.0), ("formats/a", 1.0), ("looks/a", math.nan)):
            metric.update(name, torch.tensor([score]))
        for found in (metric.compute(), {name: one.low for name, one in metric.intervals(resamples=5).items()}):
            assert {name for name, value in found.items() if math.isnan(value)} == {
                "gain_ood",
                "generalization_factor",
                "gain_ood/looks",
                "generalization_factor/looks",
            }

    def test_sets_without_a_kind_add_nothing(self) -> None:
        metric = answered({"id": torch.ones(2), "one": torch.ones(2)})
        assert list(metric.compute()) == ["gain_id", "gain_ood", "generalization_factor"]
