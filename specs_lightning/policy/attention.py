"""Attention over shared-prefix rows, without computing what is masked away.

In a row `prompt | completion 1 | completion 2 | …` most pairs of tokens do not see each other. Instead of a mask over
the whole row, the prompts attend to themselves, and every completion, as a sequence of its own, to its prompt and
itself. Everything else of a layer still runs on the row. With K completions of T tokens behind a prompt of P, that is
P² + K·T·(P + T) scores rather than (P + K·T)².
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
    """Where prompts and completions stand in rows: made once a batch, used by every layer.

    `_R` rows, `_L` row length, `_N` completions, `_T` the longest of them, `_P` the longest prompt.
    """

    row_N: Tensor
    """The row of each completion."""
    prompt_length: int
    """P: of the longest prompt."""
    token_NT: Tensor
    """The indices of each completion's tokens in the flattened (R·L) rows; beyond its end, any."""
    mask_N1TS: Tensor
    """(N, 1, T, P + T), true where a completion's token sees one of the prompt's, and one of its own."""
    place_RL: Tensor
    """Where each token's output stands in the prompts' (R·P), followed by the completions' (N·T)."""

    @classmethod
    def of(
        cls, prompt_lengths_R: Tensor, lengths_N: Tensor, row_N: Tensor, start_N: Tensor, length: int
    ) -> PrefixLayout:
        """The layout of rows of this length, padding included; each completion has a row, and a column to start at."""
        device = row_N.device
        longest_prompt, longest = int(prompt_lengths_R.max()), int(lengths_N.max())
        token_T = torch.arange(longest, device=device)
        valid_NT = token_T < lengths_N[:, None]
        token_NT = (row_N * length + start_N)[:, None] + token_T.where(valid_NT, 0)
        sees_prompt_NP = torch.arange(longest_prompt, device=device) < prompt_lengths_R[row_N][:, None]
        causal_TT = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
        n = len(row_N)
        mask_NTS = torch.cat(
            [sees_prompt_NP[:, None].expand(n, longest, -1), causal_TT.expand(n, longest, longest)], dim=-1
        )
        column_RP = torch.arange(longest_prompt, device=device)[None]
        row_R1 = torch.arange(len(prompt_lengths_R), device=device)[:, None]
        place_RL = torch.zeros(len(prompt_lengths_R), length, dtype=torch.long, device=device)
        place_RL[:, :longest_prompt] = row_R1 * longest_prompt + column_RP
        place_RL.view(-1)[token_NT[valid_NT]] = (
            place_RL.shape[0] * longest_prompt + torch.arange(n * longest, device=device).view(n, longest)[valid_NT]
        )
        return cls(row_N, longest_prompt, token_NT, mask_NTS[:, None], place_RL)


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

    Keys and values have a divisor of the queries' heads as theirs. Where there is a layout, the mask is not looked at;
    there is no dropout, since policies are in evaluation mode.
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
    prompt_queries, prompt_keys, prompt_values = (x[:, :, : layout.prompt_length] for x in (query, key, value))
    prompts = attend(prompt_queries, prompt_keys, prompt_values)
    completions = attend(
        _of_completions(query, layout),
        torch.cat([prompt_keys[layout.row_N], _of_completions(key, layout)], dim=2),
        torch.cat([prompt_values[layout.row_N], _of_completions(value, layout)], dim=2),
        layout.mask_N1TS,
    )
    outputs = torch.cat([x.transpose(1, 2).flatten(0, 1) for x in (prompts, completions)])
    return outputs[layout.place_RL]


def _of_completions(states_RHLD: Tensor, layout: PrefixLayout) -> Tensor:
    """(N, H, T, D) of the completions' tokens."""
    return states_RHLD.transpose(1, 2).flatten(0, 1)[layout.token_NT].transpose(1, 2)


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
