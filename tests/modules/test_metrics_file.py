"""`metrics.csv` holds each logged figure once."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from specs_lightning.modules.metrics_file import MetricsFile


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(opened)]


def test_columns_come_as_they_are_logged(tmp_path: Path) -> None:
    file = tmp_path / "run" / "metrics.csv"
    logger = MetricsFile(file)
    assert not file.parent.exists()
    logger.log_metrics({"loss": 0.5}, step=0)
    logger.log_metrics({"loss": torch.tensor(0.25), "rate": 1e-6}, step=1)
    logger.log_metrics({"gf/gain": float("nan")}, step=1)
    assert rows(file) == [
        {"step": "0", "loss": "0.5"},
        {"step": "1", "loss": "0.25", "rate": "1e-06"},
        {"step": "1", "gf/gain": "nan"},
    ]


def test_a_row_is_there_when_the_call_returns(tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path / "metrics.csv")
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step=step)
        assert len(rows(logger.file)) == step + 1


def test_it_goes_on_after_the_rows_that_are_kept(tmp_path: Path) -> None:
    first = MetricsFile(tmp_path / "metrics.csv")
    for step in range(4):
        first.log_metrics({"loss": float(step)}, step=step)
    first.log_metrics({"late": 1.0}, step=4)
    with first.file.open("a") as file:
        file.write("5,0.")  # broken off by a kill
    again = MetricsFile(tmp_path / "metrics.csv")
    again.table.keep(2)
    again.log_metrics({"loss": 7.0, "new": 1.0}, step=2)
    assert again.table.rows == 3
    assert rows(again.file) == [
        {"step": "0", "loss": "0.0"},
        {"step": "1", "loss": "1.0"},
        {"step": "2", "loss": "7.0", "new": "1.0"},
    ]


def test_of_an_earlier_training_nothing_is_kept(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.csv").log_metrics({"old": 1.0}, step=0)
    logger = MetricsFile(tmp_path / "metrics.csv")
    logger.table.keep(0)
    logger.log_metrics({"new": 1.0}, step=0)
    assert rows(logger.file) == [{"step": "0", "new": "1.0"}]
