"""Sentences say what was gained or lost, and of nothing more than chance allows."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from helpers.synthetic_run import write_run
from rich.console import Console

from specs_lightning.records.results import EvaluationSet, KindGain, ModelScores, Results, SetScores
from specs_lightning.report import sentences as module
from specs_lightning.report.sentences import gains_sentence, headline, ranking_sentences, sentences, show_results

Ends = tuple[float, float]


def model(
    name: str,
    inside: float | None,
    outside: float | None,
    factor: float | None,
    kinds: dict[str, float | None] | None = None,
    **intervals: Ends,
) -> ModelScores:
    of_kinds = {kind: KindGain(gain, None, {"gain_ood": intervals.get(kind)}) for kind, gain in (kinds or {}).items()}
    return ModelScores(name, name, {}, inside, outside, factor, dict(intervals), of_kinds)


def test_gains_are_told_by_kind_the_greatest_first() -> None:
    kinds = {"formats": 0.053, "looks": 0.28, "tasks": 0.301}
    apart = dict.fromkeys(("gain_id", "gain_ood", *kinds), (0.01, 0.5))
    final = model("final", 0.402, 0.214, 0.249, kinds, generalization_factor=(0.22, 0.275), **apart)
    assert gains_sentence(final) == (
        "final gains 40.2 points in distribution and 21.4 out of it (tasks 30.1, looks 28.0, formats 5.3): "
        "Γ 24.9 (22.0 to 27.5)."
    )


@pytest.mark.parametrize(
    ("inside", "outside", "factor", "told"),
    [
        (0.2, 0.1, 0.111, "x gains 20.0 points in distribution and 10.0 out of it: Γ 11.1."),
        (0.2, -0.031, 0.0, "x gains 20.0 points in distribution and loses 3.1 out of it, so"),
        (-0.2, 0.1, 0.0, "x loses 20.0 points in distribution and gains 10.0 out of it, so"),
        (-0.2, -0.1, 0.0, "x loses 20.0 points in distribution and 10.0 out of it, so"),
        (0.0, 0.1, 0.0, "x gains 0.0 points in distribution and 10.0 out of it, so"),
        (0.2, 0.0, 0.0, "x gains 20.0 points in distribution and 0.0 out of it, so"),
    ],
)
def test_a_loss_is_called_one_and_a_factor_of_zero_is_explained(
    inside: float, outside: float, factor: float, told: str
) -> None:
    end = " its Generalization Factor is 0." if factor == 0 else ""
    assert gains_sentence(model("x", inside, outside, factor)) == told + end


def test_a_gain_whose_interval_includes_zero_is_not_told_apart_from_none() -> None:
    kinds = {"looks": -0.02, "tasks": 0.03, "formats": None}
    apart = {"gain_id": (-0.01, 0.05), "gain_ood": (0.0, 0.02), "looks": (-0.04, 0.01), "tasks": (0.01, 0.05)}
    assert gains_sentence(model("x", 0.02, 0.01, 0.011, kinds, **apart)) == (
        "x gains 2.0 points in distribution, not told apart from none, and 1.0 out of it, not told apart from none "
        "(tasks 3.0; looks −2.0, not told apart from none; formats –): Γ 1.1."
    )
    lost = model("x", 0.02, -0.01, 0.0, gain_id=(0.01, 0.03), gain_ood=(-0.02, 0.01))
    assert gains_sentence(lost) == (
        "x gains 2.0 points in distribution and loses 1.0 out of it, not told apart from none, "
        "so its Generalization Factor is 0."
    )


def test_other_sorts_of_gains_have_their_own_words() -> None:
    raw = gains_sentence(model("x", 0.987, 0.946, 0.954), "raw")
    assert raw == "x scores 98.7 points in distribution and 94.6 out of it: Γ 95.4."
    relative = gains_sentence(model("x", 0.5, -0.1, 0.0), "relative")
    assert relative.startswith("x gains 50.0 % of the base's score in distribution and loses 10.0 out of it, so")


@pytest.mark.parametrize("known", [(None, 0.1, None), (0.1, None, None)])
def test_a_gain_that_is_not_known_is_said_to_be(known: tuple[float | None, float | None, float | None]) -> None:
    assert gains_sentence(model("x", *known)) == (
        "What x gains is not known on all sets, and so neither is its Generalization Factor."
    )


def test_the_best_is_told_apart_only_where_intervals_do_not_overlap() -> None:
    low = model("low", 0.1, 0.1, 0.1, generalization_factor=(0.05, 0.15))
    middle = model("middle", 0.2, 0.2, 0.2, generalization_factor=(0.14, 0.25))
    high = model("high", 0.3, 0.3, 0.3, generalization_factor=(0.26, 0.35))
    assert ranking_sentences([low, high, middle]) == [
        "high generalises best by Γ, told apart from middle, the next: its interval lies above."
    ]
    assert ranking_sentences([low, middle]) == [
        "middle has the highest Γ, but is not told apart from low, the next: intervals overlap."
    ]
    (unknown,) = ranking_sentences([low, model("bare", 0.2, 0.2, 0.2)])
    assert unknown == "bare has the highest Γ, before low; without intervals, this may be chance."


def test_of_one_model_none_is_best_and_where_nothing_generalises_it_is_said() -> None:
    assert ranking_sentences([model("a", 0.1, 0.1, 0.1), model("b", None, None, None)]) == []
    assert ranking_sentences([model("a", 0.1, -0.1, 0.0), model("b", -0.1, 0.1, 0.0)]) == [
        "No model generalises: none has a Generalization Factor above 0."
    ]


def test_each_model_after_the_first_has_its_sentence_where_there_are_sets_out_of_distribution() -> None:
    inside, outside = EvaluationSet("id", True), EvaluationSet("ood", False)
    models = (model("base", 0.0, 0.0, None), model("zero", 0.1, 0.1, 0.1), model("final", 0.2, 0.2, 0.2))
    assert [one.split()[0] for one in sentences(Results(sets=(inside, outside), models=models))] == [
        "zero",
        "final",
        "final",
    ]
    assert sentences(Results(sets=(inside,), models=models)) == []


def scored(name: str, solved: tuple[float, float], factor: float | None) -> ModelScores:
    shares = dict(zip(("id", "ood"), solved, strict=True))
    sets = {of_set: SetScores(10, solved=share, correct=share) for of_set, share in shares.items()}
    return ModelScores(name, sets=sets, generalization_factor=factor)


def test_the_headline_is_of_the_model_that_generalises_best_or_else_the_last() -> None:
    sets = (EvaluationSet("id", True), EvaluationSet("ood", False))
    base, final, control = scored("base", (0.3, 0.2), None), scored("final", (0.8, 0.5), 0.4), ("sft", (0.9, 0.1))
    with_control = Results(sets=sets, models=(base, final, scored(*control, 0.0)))
    assert headline(with_control) == (
        "final solves 80.0 % in distribution (base 30.0) and 50.0 % out of it (base 20.0)."
    )
    unknown = Results(
        sets=sets, measure="correct", models=(base, scored("a", (0.8, 0.5), None), scored(*control, None))
    )
    assert headline(unknown).startswith("sft is right on 90.0 % in distribution")
    assert headline(Results(sets=sets, models=(base,))) == ""


def test_the_terminal_shows_them_below_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    monkeypatch.setattr(module, "console", console)
    show_results(write_run(tmp_path))
    _, below = console.export_text().split("GF over the difference in solved")
    told = " ".join(below.split())
    assert "sft gains 35.0 points in distribution and loses 5.0 out of it (tasks −4.0, formats −6.0), so its" in told
    assert told.endswith("final has the highest Γ, before cold_start; without intervals, this may be chance.")
