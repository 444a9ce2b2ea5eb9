"""Long work shares one display; its bar is there for as long as the work lasts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specs_lightning.system import progress
from specs_lightning.system.progress import forget_progress, progress_bar, progress_display


def test_bars_within_a_display_are_on_it_and_leave_it() -> None:
    with progress_display() as display:
        with progress_bar("outer", 3) as advance, progress_bar("inner", 2):
            advance(2, "loss 0.5")
            outer, inner = display.tasks
            assert (outer.description, outer.completed, outer.fields["note"]) == ("outer", 2, "loss 0.5")
            assert (inner.total, inner.completed) == (2, 0)
        assert display.tasks == []


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "A_LINE_EVERY", -1.0)
    monkeypatch.setattr(progress, "A_WHILE", -1.0)
    with progress_bar("training", 3) as advance:
        for step in range(3):
            advance(1, f"loss 0.{step}")
    lines = capsys.readouterr().out.split("\n")
    assert list(filter(None, lines)) == [f"training: {i + 1} of 3 in 0:00:00 loss 0.{i}" for i in range(3)]


def test_a_log_has_no_line_of_what_has_not_begun(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "A_LINE_EVERY", -1.0)
    with progress_bar("training", 3) as advance:
        advance(0)  # as a training begins that goes on from no checkpoint
        advance(2)
    assert capsys.readouterr().out.split("\n")[0] == "training: 2 of 3 in 0:00:00"


def test_names_are_told_as_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "A_WHILE", -1.0)
    with progress_bar("reading toy:train", 3) as advance:
        advance(3)
    assert capsys.readouterr().out.startswith("reading toy:train: 3 of 3")


def test_a_log_is_not_told_of_what_is_done_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("training", 3) as advance:
        advance(3)
    assert capsys.readouterr().out.strip() == ""


def test_after_a_failure_a_new_display_is_opened() -> None:
    with pytest.raises(RuntimeError), progress_display() as first:
        raise RuntimeError
    with progress_display() as second:
        assert second is not first and not first.live.is_started


def test_a_stages_outermost_bar_is_told_in_its_folder_while_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "told_in", tmp_path)
    monkeypatch.setattr(progress, "WRITTEN_EVERY", -1.0)
    clock = iter([0.0, *([6.0] * 99)])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress_bar("[2/6] zero", 10, done=4) as advance:
        assert told(tmp_path) == ("[2/6] zero", 4, 10, None)
        with progress_bar("inner", 2) as within:
            within(1)
        advance(2)
        assert told(tmp_path) == ("[2/6] zero", 6, 10, 12.0), "two in six seconds: twelve for the four that are left"
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_has_left_of_it_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("progress.json", "progress.json.partial", "stage.json"):
        (tmp_path / name).write_text("{")
    for _ in range(2):
        forget_progress(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["stage.json"]


def told(folder: Path) -> tuple[str, int, int, float | None]:
    found = json.loads((folder / "progress.json").read_text())
    return found["title"], found["done"], found["total"], found["seconds_left"]
