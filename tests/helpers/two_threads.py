"""Two ranks as two threads of this process, which exchange values at a barrier."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from specs_lightning.system import ranks


def two_threads(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> Callable[[Callable[[], Any]], list[Any]]:
    """What calls a function as each of two ranks, and gives what each returned or raised.

    Args:
        monkeypatch: undoes it at the test's end.
        modules: those that have imported `rank` or `world_size` by name.
    """
    here, barrier = threading.local(), threading.Barrier(2)
    board: list[Any] = [None, None]

    def all_gather_object(values: list[Any], value: Any) -> None:
        board[here.rank] = value
        barrier.wait(10)
        values[:] = board
        barrier.wait(10)

    stand_ins = {"world_size": lambda: 2, "rank": lambda: here.rank}
    for module in (ranks, *modules):
        for name in stand_ins.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, stand_ins[name])
    monkeypatch.setattr(ranks.dist, "all_gather_object", all_gather_object)

    def call(function: Callable[[], Any]) -> list[Any]:
        def one(rank: int) -> Any:
            here.rank = rank
            try:
                return function()
            except Exception as error:
                return error

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(one, range(2)))

    return call
