"""Runs and stages read back, those of earlier versions, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specs_lightning.records.record import DamagedRecord
from specs_lightning.records.run import RUN, STAGE, NoRunError, RunRecord, Seal, StageRecord, read_run


def test_they_read_back(tmp_path: Path) -> None:
    run = RunRecord("toy", 7, "0.1.0", ("base", "final"), "2026-03-02T09:12:44+00:00")
    RUN.write(tmp_path, run)
    assert read_run(tmp_path) == run
    settings = {"model": None, "overrides": {"data.rounds": 3, "betas": [0.9, 0.95]}}
    stage = StageRecord(status="finished", fingerprint="5f1c", settings=settings, attempts=2, answers=Seal(4, "ab"))
    STAGE.write(tmp_path, stage)
    assert STAGE.read(tmp_path) == stage


def test_a_stage_of_before_answers_were_sealed(tmp_path: Path) -> None:
    row = {"stage": "base", "kind": "evaluate", "status": "finished", "seconds": 4.5, "cpu_seconds": 9, "attempts": 1}
    (tmp_path / STAGE.name).write_text(json.dumps({**row, "fingerprint": "5f1c", "settings": {}, "model": "toy:base"}))
    found = STAGE.read(tmp_path)
    assert found is not None and (found.cpu_seconds, found.model, found.answers) == (9.0, "toy:base", None)


def test_a_folder_without_a_run_is_none(tmp_path: Path) -> None:
    with pytest.raises(NoRunError, match=r"run\.json is missing, so .* give the folder that `specs run` wrote"):
        read_run(tmp_path)


def test_a_stage_that_would_lie_elsewhere_is_damage(tmp_path: Path) -> None:
    """Of a run of somebody else's, a report reads the run's folder alone."""
    (tmp_path / RUN.name).write_text('{"name": "toy", "stages": ["base", "../../secret"]}')
    with pytest.raises(DamagedRecord, match=r"stages\.1: .*'\.\./\.\./secret' cannot be that of a folder"):
        read_run(tmp_path)


def test_a_time_that_is_none_is_damage(tmp_path: Path) -> None:
    (tmp_path / RUN.name).write_text('{"name": "toy", "started": "yesterday"}')
    with pytest.raises(DamagedRecord, match=r"started: .*yesterday.*give the same `specs run` again"):
        read_run(tmp_path)
