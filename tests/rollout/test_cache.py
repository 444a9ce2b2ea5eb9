"""The cache with room ahead holds what transformers' own cache holds, token by token."""

from __future__ import annotations

import torch
from transformers import DynamicCache, Qwen2Config

from specs_lightning.rollout.cache import ROOM, RoomyLayer, make_cache

CONFIG = Qwen2Config(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, num_key_value_heads=2)


def test_it_holds_what_transformers_holds_also_beyond_its_room() -> None:
    roomy, plain = make_cache(CONFIG), DynamicCache(config=CONFIG)
    assert all(isinstance(layer, RoomyLayer) for layer in roomy.layers)
    for length in (5, *[1] * (ROOM + 3)):
        keys, values = torch.rand(2, 3, 2, length, 4)
        for layer in range(2):
            for mine, expected in zip(
                roomy.update(keys, values, layer), plain.update(keys, values, layer), strict=True
            ):
                assert torch.equal(mine, expected)
    assert roomy.get_seq_length() == plain.get_seq_length() == ROOM + 8


def test_rows_are_repeated_and_chosen_as_in_transformers() -> None:
    roomy, plain = make_cache(CONFIG), DynamicCache(config=CONFIG)
    prompt, token = torch.rand(2, 3, 2, 5, 4), torch.rand(2, 2, 2, 1, 4)
    for cache in (roomy, plain):
        cache.update(*prompt, 0)
        cache.update(*prompt, 1)
        cache.reorder_cache(torch.arange(3).repeat_interleave(2))
        cache.reorder_cache(torch.tensor([5, 0]))
    for mine, expected in zip(roomy.update(*token, 0), plain.update(*token, 0), strict=True):
        assert torch.equal(mine, expected)
