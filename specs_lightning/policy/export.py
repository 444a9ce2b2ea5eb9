"""A policy's weights as others take them: whole, merged, under the names of the model's files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from specs_lightning.system.ranks import failing_together, whole


def merged(weight: Tensor, adapter: Any | None, dtype: torch.dtype | None = None) -> Tensor:
    """A weight with its layer's adapter merged in, if there is one; in another type, if one is given.

    All processes of a training must ask for a sharded one. It is gathered in the type that is wanted, or, to be merged,
    in its own.
    """
    own = _dense(weight)
    if adapter is None:
        return _gathered(own.to(dtype or own.dtype))
    alone = _gathered(own)
    return (alone + _adapter_change(adapter).to(alone)).to(dtype or own.dtype)


def _dense(weight: Tensor) -> Tensor:
    """A weight, in full precision if it is quantized."""
    if (state := getattr(weight, "quant_state", None)) is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.detach(), state)


def _gathered(weight: Tensor) -> Tensor:
    if isinstance(weight, DTensor):
        with failing_together():
            make_room([weight])
    return whole(weight)


def make_room(weights: Iterable[DTensor], dtype: torch.dtype | None = None) -> None:
    """Take the memory that sharded weights need as a whole, and give it back to whoever gathers them next.

    A process that has too little says so here, and not while the others wait for its shards.
    """
    _ = [torch.empty(w.shape, dtype=dtype or w.dtype, device=w.device_mesh.device_type) for w in weights]


def _adapter_change(layer: Any) -> Tensor:
    """What the adapter adds to its layer's weight."""
    (adapter,) = layer.active_adapters
    down, up = (_gathered(matrix[adapter].weight.detach()) for matrix in (layer.lora_A, layer.lora_B))
    change: Tensor = (up @ down) * layer.scaling[adapter]
    return change
