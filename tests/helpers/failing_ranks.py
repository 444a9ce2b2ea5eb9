"""Failures in one of two processes: when they happened, and how and when each process ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
import torch
from helpers.small_runs import Letters
from torch import Tensor

from specs_lightning.errors import RewardError
from specs_lightning.groups import Completion, Prompt
from specs_lightning.system.ranks import rank

SECONDS = 60
"""That both have to end in."""
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"
_failed_at: list[float] = []


@dataclass(frozen=True)
class Ending:
    """How a process ended, and when it failed itself, if it did, by a clock that both have."""

    said: str
    at: float
    failed_at: float | None


def fail(error: Exception) -> NoReturn:
    _failed_at.append(time.monotonic())
    raise error


def out_of_memory(*unused: Any) -> None:
    """In the second process."""
    if rank() == 1:
        fail(torch.OutOfMemoryError(OUT_OF_MEMORY))


class Refuses(Letters):
    """Ends the run in the second process."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        if rank() == 1:
            fail(RewardError("the judge has no budget left"))
        return super().__call__(prompts, completions)


def ending(way: Callable[[], object]) -> Ending:
    """Of something that must fail."""
    _failed_at.clear()
    with pytest.raises(Exception) as raised:
        way()
    return Ending(f"{raised.type.__name__}: {raised.value}", time.monotonic(), next(iter(_failed_at), None))


def assert_both_ended(pair: Sequence[Ending], failing: int, cause: str) -> None:
    """One process with a cause, and the other because of it, soon after."""
    own, other = pair[failing], pair[1 - failing]
    assert (own.said, other.said) == (cause, f"OtherRankFailed: process {failing} of 2 failed: {cause}")
    assert own.failed_at is not None and other.failed_at is None
    assert max(own.at, other.at) - own.failed_at < SECONDS
