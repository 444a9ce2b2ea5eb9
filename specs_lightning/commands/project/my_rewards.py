"""Rewards of this project, by their class paths in specs.yaml."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specs_lightning.groups import Completion, Prompt
from specs_lightning.rewards import Reward


class Brevity(Reward):
    """1 for a completion of at most `limit` tokens.

    Args:
        limit: in tokens.
    """

    name = "brevity"

    def __init__(self, limit: int = 80) -> None:
        self.limit = limit

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        return torch.tensor([len(c.token_ids) <= self.limit for c in completions], dtype=torch.float32)
