"""One progress display for a whole run: whoever has long work adds a bar to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

TITLE = "SPECS_PROGRESS_TITLE"
"""The environment variable that tells a training or an evaluation the title of its bar."""

console = Console(width=None if sys.stdout.isatty() else 120)  # a log file has no width of its own
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
    with Progress(*columns, console=console, transient=True) as progress:
        _open.append(progress)
        try:
            yield progress
        finally:
            _open.pop()


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Any]:
    """A bar on the display; call what is yielded with the number of units done, and a note if there is one."""
    with progress_display() as progress:
        task = progress.add_task(title, total=total, note="")

        def advance(units: int, note: str = "") -> None:
            progress.update(task, advance=units, note=note)

        try:
            yield advance
        finally:
            progress.remove_task(task)
