"""Rows gone through by several threads and, where a training has several, by its processes together."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from specs_lightning.data.tables import Row
from specs_lightning.groups import Prompt
from specs_lightning.system.ranks import failing_together, gather, rank, world_size

T = TypeVar("T")
MOST_WORKERS = 16
AHEAD = 4
"""Rows in memory for each thread: they may hold large images."""


def default_workers() -> int:
    """A thread for each core that this process may take as its own."""
    return min(MOST_WORKERS, max(1, (os.cpu_count() or 1) // world_size()))


def in_order(rows: Iterable[Row], look: Callable[[int, Row], T], workers: int) -> Generator[tuple[Row, T], None, None]:
    """Each row with what a thread makes of its place and itself, in their order, a few at a time."""
    waiting: deque[tuple[Row, Future[T]]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for place, row in enumerate(rows):
                waiting.append((row, threads.submit(look, place, row)))
                if len(waiting) == AHEAD * workers:
                    done, made = waiting.popleft()
                    yield done, made.result()
            for done, made in waiting:
                yield done, made.result()
        finally:
            threads.shutdown(cancel_futures=True)


def read_together(
    rows: Iterable[Row],
    parse: Callable[[Row], Prompt],
    examine: Callable[[Prompt], Any],
    workers: int,
    advance: Callable[[int], None] | None = None,
) -> list[tuple[Row, Prompt | str]]:
    """Each row, without its values, with its prompt or why it has none: the same in all processes.

    Each of them examines its share, and what one cannot use, none does. Either may raise a `ValueError`.
    """

    def look(place: int, row: Row) -> Prompt | str:
        try:
            prompt = parse(row)
            if place % world_size() == rank():
                examine(prompt)
        except ValueError as error:
            return str(error)
        return prompt

    read: list[tuple[Row, Prompt | str]] = []
    with failing_together():
        for row, prompt in in_order(rows, look, workers):
            read.append((replace(row, values={}), prompt))
            if advance is not None:
                advance(1)
    mine = {place: prompt for place, (_, prompt) in enumerate(read) if isinstance(prompt, str)}
    for reasons in reversed(gather(mine)):  # of several reasons that of the first process
        for place, reason in reasons.items():
            read[place] = read[place][0], reason
    return read
