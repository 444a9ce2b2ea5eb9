"""Attention over prompts that their completions share, without computing what is masked away.

In `prompt | completion 1 | completion 2 | …` most pairs of tokens do not see each other. Instead of a mask over all of
it, the prompts attend to themselves, and every completion, as a sequence of its own, to its prompt and itself.
Everything else of a layer runs on the tokens as they stand, without padding. With K completions of T tokens behind a
prompt of P, that is P² + K·T·(P + T) scores rather than (P + K·T)².
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PretrainedConfig
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "specs_shared_prefix"
"""Of the attention implementation, as transformers knows it."""

GROUPED_WITH_MASK = frozenset({"cpu"})
"""Devices whose kernel takes fewer key heads than query heads with a mask; others would fall back to a slow one."""


@dataclass(frozen=True, slots=True, eq=False)
class PrefixLayout:
    """Where prompts and completions stand in one sequence: made once a batch, used by every layer.

    `_G` prompts, `_P` the longest of them, `_N` completions, `_T` the longest of them, `_L` all tokens.
    """

    group_N: Tensor
    """The prompt of each completion."""
    token_GP: Tensor
    """The place of each prompt's tokens in the sequence; beyond its end, any."""
    token_NT: Tensor
    """Likewise of each completion's."""
    mask_N1TS: Tensor
    """(N, 1, T, P + T), true where a completion's token sees one of the prompt's, and one of its own."""
    place_L: Tensor
    """Where each token's output stands in the prompts' (G·P), followed by the completions' (N·T)."""

    @classmethod
    def of(
        cls, prompt_lengths_G: Tensor, lengths_N: Tensor, group_N: Tensor, start_G: Tensor, start_N: Tensor
    ) -> PrefixLayout:
        """The layout of a sequence in which prompts and completions start where it says."""
        token_GP, valid_GP = _tokens(start_G, prompt_lengths_G)
        token_NT, valid_NT = _tokens(start_N, lengths_N)
        n, longest = token_NT.shape
        causal_TT = torch.ones(longest, longest, dtype=torch.bool, device=group_N.device).tril()
        sees_prompt_NP = valid_GP[group_N]
        mask_NTS = torch.cat(
            [sees_prompt_NP[:, None].expand(n, longest, -1), causal_TT.expand(n, longest, longest)], dim=-1
        )
        valid = torch.cat([valid_GP.flatten(), valid_NT.flatten()])
        token = torch.cat([token_GP.flatten(), token_NT.flatten()])
        place_L = torch.empty(int(valid.sum()), dtype=torch.long, device=group_N.device)
        place_L[token[valid]] = valid.nonzero()[:, 0]
        return cls(group_N, token_GP, token_NT, mask_NTS[:, None], place_L)


def _tokens(start_X: Tensor, lengths_X: Tensor) -> tuple[Tensor, Tensor]:
    """(X, longest) places of tokens in a row; and which of them there are: others have the place of any token."""
    number = torch.arange(int(lengths_X.max()), device=start_X.device)
    valid = number < lengths_X[:, None]
    return (start_X[:, None] + number).where(valid, 0), valid


def use_shared_prefix(config: PretrainedConfig, kernels: str | None = None) -> None:
    """Have a model's language part, loaded with `sdpa`, take layouts; without one it computes as before.

    `kernels` is the type of device whose kernels it is to compute with; that of its tensors if not given.
    """
    name = f"{NAME}_{kernels}" if kernels else NAME
    transformers.AttentionInterface.register(name, partial(attend, kernels=kernels))
    transformers.AttentionMaskInterface.register(name, sdpa_mask)
    config.get_text_config()._attn_implementation = name


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    prefix_layout: PrefixLayout | None = None,
    kernels: str | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention implementation of transformers: (R, heads, L, D) to (R, L, heads, D).

    Keys and values have a divisor of the queries' heads as theirs. Where there is a layout, there is one row, and the
    mask is not looked at; there is no dropout, since policies are in evaluation mode.
    """
    one_attention = partial(_attend, scaling=scaling, grouped=(kernels or query.device.type) in GROUPED_WITH_MASK)
    if prefix_layout is not None:
        return _attend_to_prefix(one_attention, query, key, value, prefix_layout), None
    if attention_mask is not None and query.device.type == "cpu":
        return one_attention(query, key, value, attention_mask).transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)


def _attend_to_prefix(
    attend: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, layout: PrefixLayout
) -> Tensor:
    prompt_keys, prompt_values = _at(key, layout.token_GP), _at(value, layout.token_GP)
    prompts = attend(_at(query, layout.token_GP), prompt_keys, prompt_values)
    completions = attend(
        _at(query, layout.token_NT),
        torch.cat([prompt_keys[layout.group_N], _at(key, layout.token_NT)], dim=2),
        torch.cat([prompt_values[layout.group_N], _at(value, layout.token_NT)], dim=2),
        layout.mask_N1TS,
    )
    outputs = torch.cat([x.transpose(1, 2).flatten(0, 1) for x in (prompts, completions)])
    return outputs[layout.place_L][None]


def _at(states_1HLD: Tensor, token_XT: Tensor) -> Tensor:
    """(X, H, T, D): the states at these places."""
    return states_1HLD[0].transpose(0, 1)[token_XT].transpose(1, 2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, scaling: float | None, grouped: bool
) -> Tensor:
    """Causal, or by a mask: with as few key heads as there are if the kernel takes them `grouped`."""
    groups = query.shape[1] // key.shape[1]
    native = grouped or mask is None
    if groups > 1 and not native:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    return scaled_dot_product_attention(
        query, key, value, mask, is_causal=mask is None, scale=scaling, enable_gqa=groups > 1 and native
    )
