"""Columns of `metrics.csv`: sparse, by step, and whatever stands in them."""

from pathlib import Path

import pytest

from specs_lightning.records.metrics import FILE, current_name, earlier_names, read_metrics
from specs_lightning.records.record import DamagedRecord


def test_sparse_metrics_keep_only_what_was_logged(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("epoch,step,train/loss,gf/gain_id,note\n0,5,1.5,,text\n,5,,0.25,\n0,9,nan,,\n0,10,inf,,\n")
    metrics = read_metrics(tmp_path)
    assert metrics["gf/gain_id"].steps == (5,)
    assert metrics["train/loss"].steps == (5, 9, 10)
    assert metrics["train/loss"].values[0] == 1.5
    assert metrics["train/loss"].not_finite == 2
    assert "note" not in metrics


def test_a_step_logged_twice_keeps_its_last_value_and_steps_are_in_order(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("step,train/loss\n1,1\n2,2\n3,3\n2,20\n")
    series = read_metrics(tmp_path)["train/loss"]
    assert (series.steps, series.values) == ((1, 2, 3), (1.0, 20.0, 3.0))


def test_figures_of_earlier_versions_have_their_names_of_today(tmp_path: Path) -> None:
    """Also where a training has gone on in a later version, which has columns of its own."""
    path = tmp_path / FILE
    path.write_text(
        "step,train/reward/format,train/truncated,train/reward,train/rewards/format/mean\n0,0.5,0.1,1,\n1,,,2,0.75\n"
    )
    metrics = read_metrics(tmp_path)
    assert metrics.keys() == {"train/rewards/format/mean", "train/completions/clipped_ratio", "train/reward"}
    assert metrics["train/rewards/format/mean"].values == (0.5, 0.75)


def test_a_figure_is_found_by_its_earlier_name() -> None:
    figures = {"train/rewards/format/mean": 0.5, "train/rewards/margins": 2.0, "train/loss": 1.0}
    before = earlier_names(figures)
    assert before == {"train/reward/format": 0.5, "train/reward_margin": 2.0}
    assert {current_name(name): value for name, value in before.items()} | {"train/loss": 1.0} == figures


@pytest.mark.parametrize("text", ["", "step,train/loss\n", "train/loss\n1.0\n"])
def test_metrics_without_steps_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert read_metrics(tmp_path) == {}


@pytest.mark.parametrize("last", ["3,0.", "3", "3,0.25,0.5,7", "", "\n"])
def test_a_row_that_is_being_written_breaks_nothing(tmp_path: Path, last: str) -> None:
    (tmp_path / FILE).write_text(f"step,a,b\n1,0.5,\n{last}")
    assert read_metrics(tmp_path)["a"].values[0] == 0.5


def test_what_is_no_csv_file_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"step,a\n1,\xff\n")
    with pytest.raises(DamagedRecord, match=r"metrics\.csv is damaged \(it is no CSV file: .*\): delete it"):
        read_metrics(tmp_path)
