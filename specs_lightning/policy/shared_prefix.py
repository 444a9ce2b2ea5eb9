"""Groups to rows and back: the prompt once, followed by its completions, each of which sees the prompt and itself.

All groups of a batch stand behind each other in one row, `prompt | completion 1 | completion 2 | … | prompt | …`,
without padding. Every completion's positions continue from its prompt's end, so each is computed exactly as if it stood
alone behind the prompt, while the prompt and its images are run once. Padded rows (one completion each, behind its
prompt, an ordinary mask) serve families whose attention cannot share a prompt, and the parity tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.policy.attention import PrefixLayout

JOINED_ALONG: Mapping[str, int] = MappingProxyType({})
"""The axis by the tensors' names; those without an entry are joined along their first."""


def join_vision(prompts: Sequence[EncodedPrompt], along: Mapping[str, int] = JOINED_ALONG) -> dict[str, Tensor]:
    """The image tensors of several prompts, one after the other; empty when none has an image.

    Where they differ beyond the axis that they are joined along (tiles an image, for families that cut images into
    them), smaller ones are filled up with zeros, which these families leave out.
    """
    names = dict.fromkeys(name for prompt in prompts for name in prompt.vision)
    return {name: _join([p.vision[name] for p in prompts if name in p.vision], along.get(name, 0)) for name in names}


def pack_rows(
    batch: GroupBatch,
    positions: Callable[[EncodedPrompt], Tensor],
    of_images: Callable[[list[EncodedPrompt]], Mapping[str, Any]] = join_vision,
    *,
    shared_prefix: bool = True,
    pad_id: int = 0,
) -> tuple[dict[str, Any], Tensor]:
    """Lay out a batch for one forward pass, on the batch's device: in `_R` rows of length `_L`.

    Args:
        positions: a prompt's position ids, (rows, P); text continues from their largest value.
        of_images: what the model takes of the images of these prompts, in their order.
        shared_prefix: one row for all groups, each prompt in it once, rather than one for each completion.
        pad_id: what fills up the rows.

    Returns:
        What the model takes: `input_ids` (R, L), `position_ids` ((R, L), or (rows, R, L) for families with several),
        what tells it which tokens see which, what `of_images` gives, and the prompts' token types. And (M,) indices
        into the flattened (R·L) positions: those whose hidden state predicts a token that `mask_NT` marks, in order.
    """
    device = batch.completion_ids_NT.device
    prompt_N = batch.group_N if shared_prefix else torch.arange(len(batch), device=device)
    prompts = batch.prompts if shared_prefix else [batch.prompts[g] for g in batch.group_N.tolist()]
    prompt_lengths_G = torch.tensor([len(prompt) for prompt in prompts], device=device)
    if shared_prefix:
        start_G, start_N = _starts(prompt_N, prompt_lengths_G, batch.lengths_N)
        rows, length = 1, int(prompt_lengths_G.sum() + batch.lengths_N.sum())
    else:
        rows, length = len(batch), int((prompt_lengths_G + batch.lengths_N).max())
        start_G = torch.arange(rows, device=device) * length
        start_N = start_G + prompt_lengths_G

    token_T = torch.arange(batch.completion_ids_NT.shape[1], device=device)
    valid_NT = token_T < batch.lengths_N[:, None]
    place_NT = start_N[:, None] + token_T
    position_G = [positions(prompt).to(device) for prompt in prompts]
    ids = torch.full((rows * length,), pad_id, device=device)
    position_CX = torch.zeros(position_G[0].shape[0], rows * length, dtype=torch.long, device=device)
    for start, prompt, prompt_positions in zip(start_G.tolist(), prompts, position_G, strict=True):
        ids[start : start + len(prompt)] = prompt.input_ids.to(device)
        position_CX[:, start : start + len(prompt)] = prompt_positions
    ids[place_NT[valid_NT]] = batch.completion_ids_NT[valid_NT]
    position_CX[:, place_NT[valid_NT]] = (next_positions(position_G)[:, prompt_N, None] + token_T)[:, valid_NT]
    input_ids_RL, position_CRL = ids.view(rows, length), position_CX.view(-1, rows, length)

    if shared_prefix:
        layout = PrefixLayout.of(prompt_lengths_G, batch.lengths_N, prompt_N, start_G, start_N)
        # A mask of four dimensions is handed on as it is; the layout says all, so this one says nothing.
        attention = {"attention_mask": ids.new_empty(0, 0, 0, 0), "prefix_layout": layout}
    else:
        end_N = prompt_lengths_G + batch.lengths_N
        attention = {"attention_mask": (torch.arange(length, device=device) < end_N[:, None]).long()}
    position_ids = position_CRL[0] if position_CRL.shape[0] == 1 else position_CRL
    inputs = {"input_ids": input_ids_RL, "position_ids": position_ids, **attention, **of_images(prompts)}
    inputs |= token_types(prompts, input_ids_RL, start_G.tolist())
    before_N = start_G[prompt_N] + prompt_lengths_G[prompt_N]
    predictor_NT = torch.where(token_T == 0, before_N[:, None], place_NT) - 1
    return inputs, predictor_NT[batch.mask_NT]


def _starts(group_N: Tensor, prompt_lengths_G: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
    """Where each prompt and each completion starts in the one row: behind all that comes before it."""
    of_completions_G = torch.zeros_like(prompt_lengths_G).index_add(0, group_N, lengths_N)
    group_lengths_G = prompt_lengths_G + of_completions_G
    start_G = group_lengths_G.cumsum(0) - group_lengths_G
    return start_G, prompt_lengths_G.cumsum(0)[group_N] + lengths_N.cumsum(0) - lengths_N


def next_positions(positions: list[Tensor]) -> Tensor:
    """The position that follows each prompt, (rows, R). Row 0 counts tokens; further rows (M-RoPE) go on together."""
    columns = []
    for position_CP in positions:
        following = position_CP[1:].max() + 1 if position_CP.shape[0] > 1 else position_CP.max() + 1
        column = following.repeat(position_CP.shape[0])
        column[0] = position_CP[0].max() + 1
        columns.append(column)
    return torch.stack(columns, dim=1)


def token_types(prompts: list[EncodedPrompt], ids_RL: Tensor, starts: list[int]) -> dict[str, Tensor]:
    """(R, L) by name: what processors said of the tokens of prompts, each of which starts there in the flattened rows.

    Completions and padding have type 0, which is text.
    """
    names = dict.fromkeys(name for prompt in prompts for name in prompt.token_types)
    types = {name: torch.zeros_like(ids_RL) for name in names}
    for start, prompt in zip(starts, prompts, strict=True):
        for name, types_P in prompt.token_types.items():
            types[name].view(-1)[start : start + len(prompt)] = types_P.to(ids_RL)
    return types


def _join(tensors: list[Tensor], axis: int) -> Tensor:
    if axis != 0:
        return _join([tensor.movedim(axis, 0) for tensor in tensors], 0).movedim(0, axis)
    sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.cat([_fill_up(tensor, sizes) for tensor in tensors])


def _fill_up(tensor: Tensor, sizes: list[int]) -> Tensor:
    if list(tensor.shape[1:]) == sizes:
        return tensor
    missing = (size - own for size, own in zip(reversed(sizes), reversed(tensor.shape), strict=False))
    return torch.nn.functional.pad(tensor, [amount for size in missing for amount in (0, size)])
