"""Truncated sampling by another path: distributions by plain transformers, cut by hand."""

from __future__ import annotations

import torch
from helpers.tiny_policies import plain_inputs

from specs_lightning.groups import Completion, EncodedPrompt
from specs_lightning.policy.policy import Policy
from specs_lightning.rollout import SamplingSettings


@torch.no_grad()
def distributions(
    policy: Policy, prompt: EncodedPrompt, completion: Completion, temperature: float
) -> list[dict[int, float]]:
    """The probability of every token that may be sampled, at each place of a completion."""
    ids = torch.tensor(completion.token_ids)
    logits_TV = policy.model(**plain_inputs(policy, prompt, ids), use_cache=False).logits[0, len(prompt) - 1 : -1]
    rows = (logits_TV.double() / temperature).exp().tolist()
    banned = set(policy.banned_ids.tolist())
    weights = [{i: weight for i, weight in enumerate(row) if i not in banned} for row in rows]
    return [{i: weight / sum(row.values()) for i, weight in row.items()} for row in weights]


def cut(probabilities: dict[int, float], sampling: SamplingSettings) -> dict[int, float]:
    """What is left of a distribution, its sum 1: by `min_p`, then `top_k`, then `top_p`, as their papers say it."""
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    ranked = [(i, p) for i, p in ranked if p >= sampling.min_p * ranked[0][1]][: sampling.top_k]
    total, before, kept = sum(p for _, p in ranked), 0.0, []
    for i, p in ranked:
        if before < sampling.top_p * total:
            kept.append((i, p))
        before += p
    return {i: p / sum(p for _, p in kept) for i, p in kept}
