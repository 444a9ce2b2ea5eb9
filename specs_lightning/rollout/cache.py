"""The embedded engine's key-value cache: transformers', except that a token is written instead of all being copied."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens that a full buffer grows by."""


class RoomyLayer(DynamicLayer):
    """A layer's keys and values in buffers with room ahead; transformers' layer makes a new tensor at every token."""

    _buffers: list[Tensor]
    """Of keys and of values, once there are any."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [key_states[:, :, :0], value_states[:, :, :0]]
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = [pad(buffer[:, :, :start], (0, 0, 0, end + ROOM - start)) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        return self._show(end)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._buffers = [buffer[beam_idx] for buffer in self._buffers]
        self._show(self.get_seq_length())

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        keys, values = self.keys, self.values = tuple(buffer[:, :, :length] for buffer in self._buffers)
        return keys, values


def make_cache(config: PretrainedConfig) -> DynamicCache:
    """An empty cache for a model; layers with a sliding window, or with a state in place of keys, stay transformers'.

    `reorder_cache(rows)` makes its rows those of the given numbers, which may come several times: of all kinds of
    layers.
    """
    cache = DynamicCache(config=config.get_text_config())
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]  # type: ignore[no-untyped-call]
    return cache
