"""Truncated sampling: what `min_p`, `top_k` and `top_p` leave of a distribution, as transformers cuts it.

The order is vLLM's: `min_p` of the whole distribution, `top_k` of what that leaves, `top_p` of what that leaves. Both
programs keep all tokens that are as likely as the last one of `top_k`, and always the most likely one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from specs_lightning.rollout.engine import SamplingSettings

Truncation = Callable[[Tensor], Tensor]
"""(M, V) logits at the sampling temperature to the same with −∞ for what is never drawn."""


def truncation_of(sampling: SamplingSettings) -> Truncation | None:
    """What sampling does to logits before it draws; `None` where it draws from the whole distribution."""
    if not sampling.truncated:
        return None
    warpers = LogitsProcessorList()
    if sampling.min_p > 0:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    if sampling.top_k is not None:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return partial(warpers, None)  # type: ignore[arg-type]  # none of them looks at the tokens before


def kept_logmass(logits_MV: Tensor, truncation: Truncation) -> Tensor:
    """(M,) log of the probability that a truncation keeps of each distribution, in nats: never above 0."""
    return truncation(logits_MV).logsumexp(-1) - logits_MV.logsumexp(-1)
