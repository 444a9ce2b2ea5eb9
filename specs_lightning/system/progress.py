"""One progress display for a whole run: whoever has long work adds a bar to it.

The outermost bar of a stage is also told in a file of its folder, for whoever watches the run from elsewhere.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from specs_lightning.system.files import partial_path
from specs_lightning.system.terminal import console, say, visible

TITLE = "SPECS_PROGRESS_TITLE"
"""The environment variable that tells a training or an evaluation the title of its bar."""

BESIDE_OTHERS = "SPECS_BESIDE_OTHERS"
"""The environment variable that tells a process that others of its run go on beside it, and how many there may be: all
of them tell of their progress in lines, since a terminal has room for the bars of one."""

A_LINE_EVERY, A_WHILE = 60.0, 10.0
"""Seconds between the lines of a bar in a log, and those after which there is one at its end."""

FILE, WRITTEN_EVERY = "progress.json", 2.0
"""The file in a stage's folder that tells of its bar while there is one, and the least seconds between its renewals."""

told_in: Path | None = None
"""The folder of the stage that this process does; its processes of other ranks have none."""


@dataclass(frozen=True)
class ProgressRecord:
    """How far a stage's work is: `done` of `total` units, at a time in ISO 8601; `seconds_left` at the pace so far."""

    title: str
    done: int
    total: int
    at: str
    seconds_left: float | None = None


_open: list[Progress] = []


def _has_bars() -> bool:
    return console.is_terminal and BESIDE_OTHERS not in os.environ


@contextmanager
def progress_display() -> Iterator[Progress]:
    """The open display, or a new one for as long as the block lasts."""
    if _open:
        yield _open[0]
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not _has_bars()) as progress:
        _open.append(progress)
        try:
            yield progress
        finally:
            _open.pop()


@contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[Any]:
    """A bar on the display; call what is yielded with the number of units done, and a note if there is one.

    `done` are those that were done before. In a log, which shows no bars, it is a line a minute and, if it took a
    while, one at the end.
    """
    with progress_display() as progress:
        bar = _Bar(progress, title, total, done)
        try:
            yield bar.advance
        finally:
            bar.end()


def forget_progress(folder: Path) -> None:
    """Remove what a process that was killed has left of its file."""
    for file in (folder / FILE, partial_path(folder / FILE)):
        file.unlink(missing_ok=True)


class _Bar:
    """A task of the display, and what is told of it: in a log, and of a stage's outermost one in a file."""

    def __init__(self, progress: Progress, title: str, total: int, done: int) -> None:
        self.progress, self.title, self.total, self.before = progress, title, total, done
        self.file = told_in / FILE if told_in and not progress.tasks else None
        self.id = progress.add_task(visible(title), total=total, completed=done, note="")
        self.task = next(task for task in progress.tasks if task.id == self.id)
        self.started = self.told = self.written = time.monotonic()
        self.write()

    def advance(self, units: int, note: str = "") -> None:
        self.progress.update(self.id, advance=units, note=note)
        now = time.monotonic()
        if now - self.written > WRITTEN_EVERY:
            self.written = now
            self.write()
        if self.task.completed > self.before and now - self.told > A_LINE_EVERY and not self.task.finished:
            self.told = now
            self.tell()

    def end(self) -> None:
        if self.file is not None:
            self.file.unlink(missing_ok=True)
        if self.task.completed > self.before and self.seconds > A_WHILE:
            self.tell()
        self.progress.remove_task(self.id)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def tell(self) -> None:
        """A line in a log."""
        if not _has_bars():
            passed = timedelta(seconds=round(self.seconds))
            line = f"{self.title}: {self.task.completed:.0f} of {self.total} in {passed} {self.task.fields['note']}"
            say(line.rstrip())

    def write(self) -> None:
        """The file. Not by `write_atomically`: it need not outlast the machine, and is written often."""
        if self.file is None:
            return
        done = int(self.task.completed)
        new = done - self.before
        left = self.seconds / new * (self.total - done) if new else None
        state = ProgressRecord(self.title, done, self.total, datetime.now(UTC).isoformat(timespec="seconds"), left)
        partial = partial_path(self.file)
        partial.write_text(json.dumps(asdict(state)))
        partial.replace(self.file)
