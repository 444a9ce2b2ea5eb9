"""Results read back; what is not known is None, whichever version wrote it."""

from __future__ import annotations

import math
from pathlib import Path

from specs_lightning.records.results import (
    RESULTS,
    EvaluationSet,
    KindGain,
    ModelScores,
    Results,
    SetScores,
    read_results,
)
from specs_lightning.records.run import RUN, RunRecord


def test_they_read_back_without_what_is_not_a_number(tmp_path: Path) -> None:
    RUN.write(tmp_path, RunRecord("toy"))
    assert read_results(tmp_path) is None
    scores = SetScores(4, solved=0.5, correct=math.nan, intervals={"solved": (0.1, 0.9), "correct": None})
    gains = {"gain_id": (0.1, 0.2), "gain_ood": (math.nan, math.nan)}
    model = ModelScores("final", "final", {"id": scores}, 0.1, math.nan, None, gains)
    sets = (EvaluationSet("ood", False), EvaluationSet("id", True))
    RESULTS.write(tmp_path, Results(sets=sets, models=(model,)))
    found = read_results(tmp_path)
    assert found is not None and found.set_names == ("id", "ood")
    (read,) = found.models
    assert (read.gain_id, read.gain_ood, read.generalization_factor) == (0.1, None, None)
    assert [read.interval(name) for name in ("gain_id", "gain_ood", "generalization_factor")] == [
        (0.1, 0.2),
        None,
        None,
    ]
    assert [read.sets["id"].interval(name) for name in ("solved", "correct", "format_kept")] == [(0.1, 0.9), None, None]


def test_gains_by_kind_read_back(tmp_path: Path) -> None:
    RUN.write(tmp_path, RunRecord("toy"))
    kinds = {"looks": KindGain(0.1, 0.2, {"gain_ood": (0.0, 0.3)}), "tasks": KindGain(math.nan, math.nan)}
    RESULTS.write(tmp_path, Results(sets=(), models=(ModelScores("base"), ModelScores("final", kinds=kinds))))
    found = read_results(tmp_path)
    assert found is not None and found.kinds == ("looks", "tasks")
    assert found.models[1].kinds == {**kinds, "tasks": KindGain(None, None)}


def test_a_nan_of_an_earlier_version_is_not_known(tmp_path: Path) -> None:
    RUN.write(tmp_path, RunRecord("toy"))
    model = (
        '{"name": "base", "gain_id": NaN, "intervals": {"gain_id": [NaN, 1.0]}, "sets": {"id": {"n": 2, "more": 1}}}'
    )
    (tmp_path / RESULTS.name).write_text(f'{{"sets": [], "models": [{model}]}}')
    found = read_results(tmp_path)
    assert found is not None
    assert (found.models[0].gain_id, found.models[0].interval("gain_id")) == (None, None)
    assert (found.models[0].kinds, found.kinds) == ({}, ())
