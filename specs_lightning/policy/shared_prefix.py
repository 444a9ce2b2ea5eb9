"""Groups to rows and back: the prompt once, followed by its completions, each of which sees the prompt and itself.

A row looks like `prompt | completion 1 | completion 2 | … | padding`. Every completion's positions continue from the
prompt's end, so each is computed exactly as if it stood alone behind the prompt, while the prompt and its images are
run once. The padded layout (one completion a row, an ordinary mask) is the same packing with one completion each; it
serves families whose attention cannot share a prompt, and the parity tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.policy.attention import PrefixLayout


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What one forward pass takes, and where in its output each scored token's prediction stands.

    `_R` rows, `_L` row length, `_M` scored tokens (where the batch's `mask_NT` is true, in its order).
    """

    input_ids_RL: Tensor
    position_ids: Tensor
    """(R, L) for one-dimensional positions, (rows, R, L) for families with several."""
    attention: dict[str, Any]
    """What the model takes to know which tokens see which."""
    vision: dict[str, Tensor]
    predictors_M: Tensor
    """Indices into the flattened (R·L) positions whose hidden state predicts each scored token."""
    targets_M: Tensor


def pack_rows(
    batch: GroupBatch,
    positions: Callable[[EncodedPrompt], Tensor],
    *,
    shared_prefix: bool = True,
    pad_id: int = 0,
) -> Rows:
    """Lay out a batch for one forward pass, on the batch's device.

    Args:
        batch: N completions with their prompts.
        positions: a prompt's position ids, (rows, P); text continues from their largest value.
        shared_prefix: a row for each group rather than for each completion.
        pad_id: what fills up the rows.
    """
    device = batch.completion_ids_NT.device
    row_N = batch.group_N if shared_prefix else torch.arange(len(batch), device=device)
    group_R = torch.arange(len(batch.prompts), device=device) if shared_prefix else batch.group_N
    prompts = [batch.prompts[g] for g in group_R.tolist()]
    position_R = [positions(prompt).to(device) for prompt in prompts]
    prompt_lengths_R = torch.tensor([len(prompt) for prompt in prompts], device=device)

    # Where each completion starts in its row: behind the prompt and the completions before it.
    before_N = batch.lengths_N.cumsum(0) - batch.lengths_N
    first_of_row_R = torch.searchsorted(row_N, torch.arange(len(prompts), device=device))
    start_N = prompt_lengths_R[row_N] + before_N - before_N[first_of_row_R][row_N]
    length = int((start_N + batch.lengths_N).max())

    ends_R = torch.zeros_like(prompt_lengths_R).scatter_reduce_(0, row_N, start_N + batch.lengths_N, "amax")

    token_T = torch.arange(batch.completion_ids_NT.shape[1], device=device)
    valid_NT = token_T < batch.lengths_N[:, None]
    column_NT = start_N[:, None] + token_T
    row_NT = row_N[:, None].expand_as(column_NT)
    at = row_NT[valid_NT], column_NT[valid_NT]

    input_ids_RL = torch.full((len(prompts), length), pad_id, device=device)
    position_CRL = torch.zeros(position_R[0].shape[0], *input_ids_RL.shape, dtype=torch.long, device=device)
    for r, (prompt, prompt_positions) in enumerate(zip(prompts, position_R, strict=True)):
        input_ids_RL[r, : len(prompt)] = prompt.input_ids.to(device)
        position_CRL[:, r, : len(prompt)] = prompt_positions
    input_ids_RL[at] = batch.completion_ids_NT[valid_NT]
    next_position_CR = next_positions(position_R)
    position_CNT = next_position_CR[:, row_N, None] + token_T
    position_CRL[:, at[0], at[1]] = position_CNT[:, valid_NT]

    if shared_prefix:
        layout = PrefixLayout.of(prompt_lengths_R, batch.lengths_N, row_N, start_N, length)
        # A mask of four dimensions is handed on as it is; the layout says all, so this one says nothing.
        attention = {"attention_mask": input_ids_RL.new_empty(0, 0, 0, 0), "prefix_layout": layout}
    else:
        attention = {"attention_mask": (torch.arange(length, device=device) < ends_R[:, None]).long()}

    predictor_NT = torch.where(token_T == 0, prompt_lengths_R[row_N][:, None], column_NT) - 1
    scored_NT = batch.mask_NT & valid_NT
    return Rows(
        input_ids_RL=input_ids_RL,
        position_ids=position_CRL[0] if position_CRL.shape[0] == 1 else position_CRL,
        attention=attention,
        vision=join_vision(prompts),
        predictors_M=(row_NT * length + predictor_NT)[scored_NT],
        targets_M=batch.completion_ids_NT[scored_NT],
    )


def next_positions(positions: list[Tensor]) -> Tensor:
    """The position that follows each prompt, (rows, R). Row 0 counts tokens; further rows (M-RoPE) go on together."""
    columns = []
    for position_CP in positions:
        following = position_CP[1:].max() + 1 if position_CP.shape[0] > 1 else position_CP.max() + 1
        column = following.repeat(position_CP.shape[0])
        column[0] = position_CP[0].max() + 1
        columns.append(column)
    return torch.stack(columns, dim=1)


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
