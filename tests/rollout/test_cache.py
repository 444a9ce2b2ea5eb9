"""The cache with room ahead holds what transformers' own cache holds, token by token."""

from __future__ import annotations

import torch
from transformers import DynamicCache, Qwen2Config, Qwen3_5TextConfig

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


def test_states_in_place_of_keys_are_repeated_and_chosen_as_rows_are() -> None:
    config = Qwen3_5TextConfig(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"])
    cache = make_cache(config)
    convolved, state = torch.rand(3, 6, 4), torch.rand(3, 2, 4, 5)
    cache.update_conv_state(convolved, 0)
    cache.update_recurrent_state(state, 0)
    cache.update(torch.rand(3, 2, 5, 4), torch.rand(3, 2, 5, 4), 1)
    rows = torch.tensor([2, 2, 0])
    cache.reorder_cache(rows)
    layer = cache.layers[0]
    assert torch.equal(layer.conv_states[0], convolved[rows]) and torch.equal(layer.recurrent_states[0], state[rows])
    layer.recurrent_states[0][0] += 1
    assert torch.equal(layer.recurrent_states[0][1], state[2])  # a state of its own, changed in place by later tokens
