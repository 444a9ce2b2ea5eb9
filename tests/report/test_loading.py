from pathlib import Path

from helpers.synthetic_run import write_json, write_run

from specs_lightning.report.loading import load_run, spread


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))
    base, _, distill, *_, final = run.stages
    assert (run.record.name, run.record.seed, len(run.stages)) == ("toy-specs", 7, 6)
    assert run.results is not None
    assert run.results.id_sets == ("id",)
    assert run.results.ood_sets == ("formats/boxed", "tasks/letter")
    assert base.metrics == {}
    assert len(distill.pairs) == 3
    assert distill.set_aside_counts == {"missing image file": 58, "missing question": 1}
    assert final.samples[0].completions[3].rewards == {"format": 1.0, "accuracy": None}
    assert not final.samples[0].completions[3].finished


def test_a_stage_that_has_not_run_is_empty(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"name": "new", "stages": ["base"]})
    (stage,) = load_run(tmp_path).stages
    assert (stage.name, stage.record.status, stage.record.seconds, stage.samples) == ("base", "not run", None, [])


def test_spread_keeps_the_first_and_the_last() -> None:
    lines = [str(i) for i in range(100)]
    chosen = spread(lines, 12)
    assert len(chosen) == len(set(chosen)) == 12
    assert (chosen[0], chosen[-1]) == ("0", "99")
    assert spread(lines[:3], 12) == lines[:3]
