"""How the models of a run are measured, and what their gains are."""

from __future__ import annotations

from dataclasses import replace

from specs_lightning.data.sources import PromptSource
from specs_lightning.judge import JudgeSettings
from specs_lightning.records.answers import Answer
from specs_lightning.runs.measurement import EvaluationSettings, results_of

EVALUATION = EvaluationSettings(PromptSource("id.jsonl"), {"ood": PromptSource("ood.jsonl")})


def answers(**solved: float) -> list[Answer]:
    return [Answer(name, "p", "", 1, True, value, value, value) for name, value in solved.items()]


def test_gains_are_over_the_first_model_and_one_without_answers_is_left_out() -> None:
    found = results_of({"base": answers(id=0.0, ood=0.0), "kept": None, "final": answers(id=1.0, ood=0.5)}, EVALUATION)
    base, final = found.models
    assert (base.name, final.name) == ("base", "final")
    assert (base.gain_id, final.gain_id, final.gain_ood) == (0, 1.0, 0.5)
    assert base.generalization_factor is None and final.generalization_factor > 0
    assert [(each.name, each.in_distribution) for each in found.sets] == [("id", True), ("ood", False)]


def test_gains_are_told_of_each_kind_of_sets() -> None:
    sets = {name: PromptSource(f"{name}.jsonl") for name in ("formats/boxed", "formats/json", "looks/dark")}
    before, after = (0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.5, 0.0)
    models = {
        name: answers(**dict(zip(("id", *sets), solved, strict=True)))
        for name, solved in (("base", before), ("final", after))
    }
    found = results_of(models, EvaluationSettings(EVALUATION.in_distribution, sets))
    base, final = found.models
    assert found.kinds == ("formats", "looks") and base.kinds == {}
    assert final.gain_ood == 0.375
    assert {kind: one.gain_ood for kind, one in final.kinds.items()} == {"formats": 0.75, "looks": 0.0}
    assert final.kinds["looks"].generalization_factor == 0.0
    assert final.kinds["formats"].interval("gain_ood") == (0.75, 0.75)


def test_what_answers_depend_on_is_told_apart_from_how_they_are_summed_up() -> None:
    assert EVALUATION.decisive == replace(EVALUATION, beta=1.0, gain="relative", measure="correct").decisive
    judged = replace(EVALUATION, judge=JudgeSettings("judge", base_url="http://localhost:1/v1"))
    patient = replace(judged, judge=JudgeSettings("judge", base_url="http://localhost:1/v1", retries=9))
    assert EVALUATION.decisive != judged.decisive == patient.decisive
