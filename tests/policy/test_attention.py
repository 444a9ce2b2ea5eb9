"""Attention by layout is attention under the mask that lets a completion see its prompt and itself."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from specs_lightning.policy.attention import PrefixLayout, attend

GROUPS: list[tuple[int, list[int]]] = [(5, [3, 1, 4]), (2, [6]), (7, [2, 2]), (3, [0])]
"""Each prompt's length, and its completions'; an empty one goes with a dummy prompt."""
LENGTH = 35
"""Of all together."""
MODULE: Any = SimpleNamespace(num_key_value_groups=2, is_causal=True, training=False)


def layout() -> PrefixLayout:
    lengths_N, group_N, start_G, start_N = [], [], [], []
    end = 0
    for group, (prompt, completions) in enumerate(GROUPS):
        start_G.append(end)
        end += prompt
        for length in completions:
            group_N.append(group)
            start_N.append(end)
            lengths_N.append(length)
            end += length
    prompts_G = torch.tensor([prompt for prompt, _ in GROUPS])
    return PrefixLayout.of(prompts_G, *map(torch.tensor, (lengths_N, group_N, start_G, start_N)))


def visible() -> Tensor:
    """(1, 1, L, L) token by token, as the definition says."""
    seen = torch.zeros((LENGTH, LENGTH), dtype=torch.bool)
    start = 0
    for prompt, completions in GROUPS:
        owner = [0] * prompt + [n + 1 for n, length in enumerate(completions) for _ in range(length)]
        for i in range(len(owner)):
            for j in range(i + 1):
                seen[start + i, start + j] = owner[j] in (0, owner[i])
        start += len(owner)
    assert start == LENGTH
    return seen[None, None]


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (6, 1)])
def test_outputs_and_gradients_are_those_of_the_mask(heads: int, key_heads: int) -> None:
    torch.manual_seed(0)
    states = [torch.randn(1, h, LENGTH, 8, dtype=torch.float64) for h in (heads, key_heads, key_heads)]
    weights = torch.randn(1, LENGTH, heads, 8, dtype=torch.float64)

    def outcome(by_layout: bool) -> tuple[Tensor, list[Tensor]]:
        query, key, value = (x.clone().requires_grad_() for x in states)
        if by_layout:
            output, _ = attend(MODULE, query, key, value, None, scaling=0.3, prefix_layout=layout())
        else:
            repeated = (x.repeat_interleave(heads // key_heads, 1) for x in (key, value))
            output = scaled_dot_product_attention(query, *repeated, visible(), scale=0.3).transpose(1, 2)
        return output, list(torch.autograd.grad((weights * output).sum(), (query, key, value)))

    (measured, gradients), (expected, expected_gradients) = outcome(True), outcome(False)
    torch.testing.assert_close(measured, expected, rtol=0, atol=1e-12)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("queries", [1, 6])
def test_without_a_layout_it_is_transformers_own(queries: int) -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, queries, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    mask = torch.rand(2, 1, queries, 9) < 0.7
    mask[..., 0] = True
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True  # type: ignore[assignment]
    measured, _ = attend(module, query, key, value, mask, scaling=0.5)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.5)
    torch.testing.assert_close(measured, expected)
