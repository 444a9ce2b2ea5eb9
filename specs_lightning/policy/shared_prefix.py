"""Groups to rows and back: the prompt once, followed by its completions, each of which sees the prompt and itself.

A row looks like `prompt | completion 1 | completion 2 | … | padding`. Every completion's positions continue from the
prompt's end, so each is computed exactly as if it stood alone behind the prompt, while the prompt and its images are
run once. The padded layout (one completion a row, an ordinary mask) is the same packing with one completion each; it
serves families whose attention cannot share a prompt, and the parity tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.policy.attention import PrefixLayout


def pack_rows(
    batch: GroupBatch, positions: Callable[[EncodedPrompt], Tensor], *, shared_prefix: bool = True, pad_id: int = 0
) -> tuple[dict[str, Any], Tensor]:
    """Lay out a batch for one forward pass, on the batch's device: in `_R` rows of length `_L`.

    Args:
        positions: a prompt's position ids, (rows, P); text continues from their largest value.
        shared_prefix: a row for each group rather than for each completion.
        pad_id: what fills up the rows.

    Returns:
        What the model takes: `input_ids` (R, L), `position_ids` ((R, L), or (rows, R, L) for families with several),
        what tells it which tokens see which, the images' tensors, and the prompts' token types. And (M,) indices into
        the flattened (R·L) positions: those whose hidden state predicts a token that `mask_NT` marks, in its order.
    """
    device = batch.completion_ids_NT.device
    row_N = batch.group_N if shared_prefix else torch.arange(len(batch), device=device)
    group_R = torch.arange(len(batch.prompts), device=device) if shared_prefix else batch.group_N
    prompts = [batch.prompts[g] for g in group_R.tolist()]
    prompt_lengths_R = torch.tensor([len(prompt) for prompt in prompts], device=device)
    start_N = _starts(row_N, prompt_lengths_R, batch.lengths_N)
    length = int((start_N + batch.lengths_N).max())

    token_T = torch.arange(batch.completion_ids_NT.shape[1], device=device)
    valid_NT = token_T < batch.lengths_N[:, None]
    column_NT = start_N[:, None] + token_T
    row_NT = row_N[:, None].expand_as(column_NT)
    at = row_NT[valid_NT], column_NT[valid_NT]

    position_R = [positions(prompt).to(device) for prompt in prompts]
    input_ids_RL = torch.full((len(prompts), length), pad_id, device=device)
    position_CRL = torch.zeros(position_R[0].shape[0], *input_ids_RL.shape, dtype=torch.long, device=device)
    for r, (prompt, prompt_positions) in enumerate(zip(prompts, position_R, strict=True)):
        input_ids_RL[r, : len(prompt)] = prompt.input_ids.to(device)
        position_CRL[:, r, : len(prompt)] = prompt_positions
    input_ids_RL[at] = batch.completion_ids_NT[valid_NT]
    position_CNT = next_positions(position_R)[:, row_N, None] + token_T
    position_CRL[:, at[0], at[1]] = position_CNT[:, valid_NT]

    if shared_prefix:
        layout = PrefixLayout.of(prompt_lengths_R, batch.lengths_N, row_N, start_N, length)
        # A mask of four dimensions is handed on as it is; the layout says all, so this one says nothing.
        attention = {"attention_mask": input_ids_RL.new_empty(0, 0, 0, 0), "prefix_layout": layout}
    else:
        end_N = start_N + batch.lengths_N
        attention = {"attention_mask": (torch.arange(length, device=device) < end_N[:, None]).long()}
    position_ids = position_CRL[0] if position_CRL.shape[0] == 1 else position_CRL
    inputs = {"input_ids": input_ids_RL, "position_ids": position_ids, **attention, **join_vision(prompts)}
    inputs |= token_types(prompts, input_ids_RL)
    predictor_NT = torch.where(token_T == 0, prompt_lengths_R[row_N][:, None], column_NT) - 1
    return inputs, (row_NT * length + predictor_NT)[batch.mask_NT]


def _starts(row_N: Tensor, prompt_lengths_R: Tensor, lengths_N: Tensor) -> Tensor:
    """Where each completion starts in its row: behind the prompt and the completions before it."""
    before_N = lengths_N.cumsum(0) - lengths_N
    first_of_row_R = torch.searchsorted(row_N, torch.arange(len(prompt_lengths_R), device=row_N.device))
    return prompt_lengths_R[row_N] + before_N - before_N[first_of_row_R][row_N]


def next_positions(positions: list[Tensor]) -> Tensor:
    """The position that follows each prompt, (rows, R). Row 0 counts tokens; further rows (M-RoPE) go on together."""
    columns = []
    for position_CP in positions:
        following = position_CP[1:].max() + 1 if position_CP.shape[0] > 1 else position_CP.max() + 1
        column = following.repeat(position_CP.shape[0])
        column[0] = position_CP[0].max() + 1
        columns.append(column)
    return torch.stack(columns, dim=1)


def token_types(prompts: list[EncodedPrompt], ids_RL: Tensor, left: bool = False) -> dict[str, Tensor]:
    """(R, L) by name: what processors said of the tokens of prompts, each at its row's start, or `left` of its end.

    Completions and padding have type 0, which is text.
    """
    names = dict.fromkeys(name for prompt in prompts for name in prompt.token_types)
    types = {name: torch.zeros_like(ids_RL) for name in names}
    for r, prompt in enumerate(prompts):
        start = ids_RL.shape[1] - len(prompt) if left else 0
        for name, types_P in prompt.token_types.items():
            types[name][r, start : start + len(prompt)] = types_P.to(ids_RL)
    return types


def join_vision(prompts: list[EncodedPrompt]) -> dict[str, Tensor]:
    """The image tensors of several prompts, one after the other; empty when none has an image.

    Where they differ beyond the first axis (tiles an image, for families that cut images into them), smaller ones are
    filled up with zeros, which these families leave out.
    """
    names = dict.fromkeys(name for prompt in prompts for name in prompt.vision)
    return {name: _concatenate([p.vision[name] for p in prompts if name in p.vision]) for name in names}


def _concatenate(tensors: list[Tensor]) -> Tensor:
    sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.cat([_fill_up(tensor, sizes) for tensor in tensors])


def _fill_up(tensor: Tensor, sizes: list[int]) -> Tensor:
    if list(tensor.shape[1:]) == sizes:
        return tensor
    missing = (size - own for size, own in zip(reversed(sizes), reversed(tensor.shape), strict=False))
    return torch.nn.functional.pad(tensor, [amount for size in missing for amount in (0, size)])
