import json
import math
from pathlib import Path

import pytest
from helpers.synthetic_run import write_json, write_run

from specs_lightning.report.files import as_text, finite, read_lines, read_metrics, spread
from specs_lightning.report.loading import load_run


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))
    base, _, distill, *_, final = run.stages
    assert (run.name, run.seed, len(run.stages)) == ("toy-specs", 7, 6)
    assert run.results is not None
    assert run.results.id_sets == ("id",)
    assert run.results.ood_sets == ("ood_boxed", "ood_letter")
    assert base.metrics == {}
    assert len(distill.pairs) == 3
    assert distill.set_aside_counts == {"missing image file": 58, "missing question": 1}
    assert final.samples[0].completions[3].rewards == {"format": 1.0, "accuracy": None}
    assert not final.samples[0].completions[3].finished


def test_a_stage_that_has_not_run_is_empty(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"name": "new", "stages": ["base"]})
    (stage,) = load_run(tmp_path).stages
    assert (stage.name, stage.status, stage.seconds, stage.samples) == ("base", "not run", None, ())


def test_sparse_metrics_keep_only_what_was_logged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,gf/gain_id,note\n0,5,1.5,,text\n,5,,0.25,\n0,9,nan,,\n0,10,inf,,\n")
    metrics = read_metrics(path)
    assert metrics["gf/gain_id"].steps == (5,)
    assert metrics["train/loss"].steps == (5, 9, 10)
    assert metrics["train/loss"].values[0] == 1.5
    assert metrics["train/loss"].not_finite == 2
    assert "note" not in metrics


def test_a_step_logged_twice_keeps_its_last_value_and_steps_are_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n1,1\n2,2\n3,3\n2,20\n")
    series = read_metrics(path)["train/loss"]
    assert (series.steps, series.values) == ((1, 2, 3), (1.0, 20.0, 3.0))


@pytest.mark.parametrize("text", ["", "step,train/loss\n", "train/loss\n1.0\n"])
def test_metrics_without_steps_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    assert read_metrics(tmp_path / "metrics.csv") == {}


def test_a_last_line_still_being_written_is_left_out_and_other_damage_is_not(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"a": "line\u2028separator"}\n{"a": 2}\n{"a"', encoding="utf-8")
    assert [json.loads(line)["a"] for line in read_lines(path)] == ["line\u2028separator", 2]
    path.write_text('{"a": 1}\n{"a": 2}')
    assert len(read_lines(path)) == 2
    write_json(tmp_path / "run.json", {"name": "damaged", "stages": ["final"]})
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "samples.jsonl").write_text('{"a"\n{"a": 2}\n')
    with pytest.raises(json.JSONDecodeError):
        load_run(tmp_path)


def test_spread_keeps_the_first_and_the_last() -> None:
    lines = [str(i) for i in range(100)]
    chosen = spread(lines, 12)
    assert len(chosen) == len(set(chosen)) == 12
    assert (chosen[0], chosen[-1]) == ("0", "99")
    assert spread(lines[:3], 12) == lines[:3]


def test_only_finite_numbers_are_numbers() -> None:
    assert [finite(value) for value in (1, 0.5, None, "1", math.nan, math.inf)] == [1.0, 0.5, None, None, None, None]


def test_anything_becomes_text() -> None:
    assert [as_text(value) for value in ("a", None, 3)] == ["a", "", "3"]
    assert '"content": "é"' in as_text([{"content": "é"}])
