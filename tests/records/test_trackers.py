from __future__ import annotations

from pathlib import Path

from specs_lightning.records.trackers import TRACKERS


def test_names_of_runs_are_kept_by_tracker(tmp_path: Path) -> None:
    assert TRACKERS.read(tmp_path) is None
    TRACKERS.write(tmp_path, {"wandb": "3f2a", "tensorboard": "zero"})
    assert TRACKERS.read(tmp_path) == {"wandb": "3f2a", "tensorboard": "zero"}
