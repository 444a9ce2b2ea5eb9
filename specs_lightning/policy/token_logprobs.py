"""Log-probabilities of given tokens from hidden states, without ever holding the logits of a whole row.

Logits are computed for completion positions alone, in chunks that are recomputed in the backward pass: their memory
does not grow with the vocabulary times the number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_IN_MEMORY = 2**25
"""How many logits may exist at once (128 MiB in float32)."""


class TokenLogprobs(NamedTuple):
    """Log-probabilities in nats, and of the distribution each token was drawn from what was asked for."""

    logprobs: Tensor
    entropy: Tensor | None
    observed: Tensor | None = None


def token_logprobs(
    hidden_MH: Tensor,
    targets_M: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    temperature: float = 1.0,
    banned_ids: Tensor | None = None,
    with_entropy: bool = False,
    entropy_gradient: bool = False,
    observe: Callable[[Tensor], Tensor] | None = None,
    logits_in_memory: int = LOGITS_IN_MEMORY,
) -> TokenLogprobs:
    """log softmax(head(hidden) / temperature)[target] for each of M positions.

    Args:
        hidden_MH: the hidden state that predicts each target.
        targets_M: token ids.
        head: hidden states to logits; `head(hidden_MH)` has shape (M, V).
        temperature: of the sampling distribution; positive.
        banned_ids: ids that are never sampled, left out of the distribution.
        with_entropy: also return each distribution's entropy, without gradient.
        entropy_gradient: with gradient, at the price of another tensor of a chunk's logits.
        observe: also return what this makes of the distributions' logits, (M, V) to (M,), without gradient.

    Returns:
        float32 tensors of shape (M,).
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")

    def score(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = head(hidden).float() / temperature
        if banned_ids is not None and len(banned_ids):
            logits = logits.index_fill(-1, banned_ids, float("-inf"))
        normalizer = logits.logsumexp(-1)
        logprobs = logits.gather(-1, targets[:, None])[:, 0] - normalizer
        entropy, observed = logprobs.new_empty(0), logprobs.new_empty(0)
        if entropy_gradient:
            entropy = differentiable_entropy(logits - normalizer[:, None])
        with torch.no_grad():
            if with_entropy and not entropy_gradient:
                all_logprobs = logits - normalizer[:, None]
                entropy = torch.special.entr(all_logprobs.exp()).sum(-1)
            if observe is not None:
                observed = observe(logits)
        return logprobs, entropy, observed

    vocabulary = head(hidden_MH[:1].detach()).shape[-1] if len(hidden_MH) else 1
    chunk = max(1, logits_in_memory // vocabulary)
    if len(hidden_MH) <= chunk:
        logprobs, entropy, observed = score(hidden_MH, targets_M)
    else:
        scored = [
            checkpoint(score, hidden, targets, use_reentrant=False)
            for hidden, targets in zip(hidden_MH.split(chunk), targets_M.split(chunk), strict=True)
        ]
        logprobs, entropy, observed = (torch.cat(parts) for parts in zip(*scored, strict=True))
    has_entropy = with_entropy or entropy_gradient
    return TokenLogprobs(logprobs, entropy if has_entropy else None, observed if observe is not None else None)


def differentiable_entropy(logprobs_MV: Tensor) -> Tensor:
    """(M,) entropies in nats. What has no probability (−∞) adds nothing to them or the gradient; `entr` gives NaN."""
    return -(logprobs_MV.exp() * logprobs_MV.masked_fill(logprobs_MV.isneginf(), 0.0)).sum(-1)
