"""One progress display for a whole run: whoever has long work adds a bar to it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

TITLE = "SPECS_PROGRESS_TITLE"
"""The environment variable that tells a training or an evaluation the title of its bar."""

A_LINE_EVERY, A_WHILE = 60.0, 10.0
"""Seconds between the lines of a bar in a log, and those after which there is one at its end."""

# A log file has no width of its own; `toy:train:` is no picture of a train.
console = Console(width=None if sys.stdout.isatty() else 120, emoji=False)
_open: list[Progress] = []


@contextmanager
def progress_display() -> Iterator[Progress]:
    """The open display, or a new one for as long as the block lasts."""
    if _open:
        yield _open[0]
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        _open.append(progress)
        try:
            yield progress
        finally:
            _open.pop()


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Any]:
    """A bar on the display; call what is yielded with the number of units done, and a note if there is one.

    In a log, which shows no bars, it is a line a minute and, if it took a while, one at the end.
    """
    with progress_display() as progress:
        task = progress.add_task(title, total=total, note="")
        bar = next(bar for bar in progress.tasks if bar.id == task)
        started = told = time.monotonic()

        def tell() -> None:
            if not console.is_terminal:
                passed = timedelta(seconds=round(time.monotonic() - started))
                line = f"{title}: {bar.completed:.0f} of {total} in {passed} {bar.fields['note']}"
                console.print(line.rstrip(), markup=False, soft_wrap=True)

        def advance(units: int, note: str = "") -> None:
            nonlocal told
            progress.update(task, advance=units, note=note)
            if bar.completed and time.monotonic() - told > A_LINE_EVERY and not bar.finished:
                told = time.monotonic()
                tell()

        try:
            yield advance
        finally:
            if bar.completed and time.monotonic() - started > A_WHILE:
                tell()
            progress.remove_task(task)
