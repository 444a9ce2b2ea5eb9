"""Work divided over the processes of a training, and put together again. With one process, nothing happens here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from specs_lightning.errors import SpecsError

T = TypeVar("T")
_NOTHING = object()
_TOLD = "told_to_all_processes"


class OtherRankFailed(SpecsError, RuntimeError):
    """Another process of the training could not go on."""


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part of what all of them have: every `world_size`-th item."""
    return items if world_size() == 1 else items[rank() :: world_size()]


def gather(value: T) -> list[T]:
    """The values of all processes, in their order. All must call it."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_shares(mine: Sequence[T]) -> list[T]:
    """What all processes made of their `share`s, in the order of the items."""
    rows = zip_longest(*gather(list(mine)), fillvalue=_NOTHING)
    return [item for item in chain.from_iterable(rows) if item is not _NOTHING]  # type: ignore[misc]


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all processes; any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    on_device = tensor.to(tensor.device_mesh.device_type)  # it may be offloaded to the CPU
    assert isinstance(on_device, DTensor)
    return on_device.full_tensor()


@contextmanager
def failing_together() -> Iterator[None]:
    """What one process raises within, all raise at its end: they would wait for it forever otherwise.

    Within may be further ones, and no other waiting for each other but what is certain to follow one: a failure is told
    once, where the other processes meet next.

    Raises:
        OtherRankFailed: in the processes that did not fail themselves.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if _is_told(error):
            raise
        failure = error
    causes = gather(None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        failure.__dict__[_TOLD] = True
        raise failure
    for failed, cause in enumerate(causes):
        if cause is not None:
            raise OtherRankFailed(f"process {failed} of {len(causes)} failed: {cause}")


def _is_told(error: BaseException | None) -> bool:
    """Whether all processes know of a failure, or of what it came from."""
    while error is not None:
        if isinstance(error, OtherRankFailed) or _TOLD in error.__dict__:
            return True
        error = error.__cause__ or error.__context__
    return False
