"""Γ of answers to evaluation sets: over a base, or of scores themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from specs_lightning.evaluation.generalization import generalization
from specs_lightning.records.answers import Answer


def answers(name: str, solved: Sequence[float]) -> list[Answer]:
    return [Answer(name, f"{name}{i}", "", 1, True, one, one, one) for i, one in enumerate(solved)]


MODEL = {"id": answers("id", [1, 1, 1, 0]), "x": answers("x", [1, 0, 0, 0]), "y": answers("y", [1, 1, 0, 0])}
BASE = {"id": answers("id", [1, 0, 0, 0]), "x": answers("x", [0, 0, 0, 0]), "y": answers("y", [1, 0, 0, 0])}


def test_gains_are_over_the_base_with_sets_out_of_distribution_alike() -> None:
    found = generalization(MODEL, BASE)
    assert found is not None
    assert (found.gain, found.gain_id, found.gain_ood) == ("difference", 0.5, 0.25)
    assert found.generalization_factor == pytest.approx(5 * 0.5 * 0.25 / (4 * 0.5 + 0.25))
    low, high = found.intervals["gain_id"]
    assert low <= 0.5 <= high
    assert "Generalization Factor 0.278 (" in str(found) and "ID +50.0 (" in str(found)


def test_without_a_base_it_is_of_scores_and_says_so() -> None:
    found = generalization(MODEL, None)
    assert found is not None
    assert (found.gain, found.gain_id, found.gain_ood) == ("raw", 0.75, 0.375)
    assert "--base MODEL" in str(found) and "ID 75.0 (" in str(found)


@pytest.mark.parametrize("names", [("id",), ("x", "y")])
def test_it_needs_both_kinds_of_sets(names: tuple[str, ...]) -> None:
    assert generalization({name: MODEL[name] for name in names}, None) is None


def test_a_set_that_nobody_could_judge_leaves_it_unknown() -> None:
    found = generalization({**MODEL, "id": answers("id", [math.nan] * 4)}, BASE)
    assert found is not None and math.isnan(found.generalization_factor)


def test_kinds_of_sets_weigh_alike_and_have_their_own() -> None:
    named = {"x": "formats/x", "y": "formats/y", "id": "id"}
    model, base = ({named[name]: of_set for name, of_set in of_all.items()} for of_all in (MODEL, BASE))
    found = generalization({**model, "looks/z": answers("z", [1, 1])}, {**base, "looks/z": answers("z", [0, 0])})
    assert found is not None and found.gain_ood == pytest.approx((0.25 + 1) / 2)
    assert {kind: one.gain_ood for kind, one in found.kinds.items()} == {"formats": 0.25, "looks": 1.0}
    assert found.kinds["formats"].generalization_factor == pytest.approx(5 * 0.5 * 0.25 / (4 * 0.5 + 0.25))
    assert found.kinds["looks"].interval("gain_ood") == (1.0, 1.0)
    assert set(found.intervals) == {"gain_id", "gain_ood", "generalization_factor"}
    said = str(found).splitlines()
    assert (
        len(said) == 3
        and said[1].startswith("  formats: 0.278 (")
        and said[2].endswith("OOD +100.0 (+100.0 to +100.0)")
    )
