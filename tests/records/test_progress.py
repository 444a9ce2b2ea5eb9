from __future__ import annotations

from pathlib import Path

import pytest

from specs_lightning.records.progress import PROGRESS
from specs_lightning.system import progress


def test_what_a_bar_has_written_is_read_and_nothing_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "told_in", tmp_path)
    with progress.progress_bar("[2/6] zero", 24, done=3):
        found = PROGRESS.read(tmp_path)
    assert found is not None and (found.title, found.done, found.total, found.seconds_left) == (
        "[2/6] zero",
        3,
        24,
        None,
    )
    assert PROGRESS.read(tmp_path) is None
