"""The format reward: whether a response keeps the format that its prompt asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specs_lightning.groups import Completion, Prompt
from specs_lightning.rewards.base import Reward
from specs_lightning.scoring.answer_formats import read_asked


class FormatReward(Reward):
    """1 for a finished completion that its prompt's format reads strictly, 0 for any other.

    A completion cut off by the length limit doesn't keep the format, whatever it holds so far. A tag that the chat
    template opens for the model belongs to the response.
    """

    name = "format"

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        kept = [
            completion.finished and read_asked(completion.text, prompt.answer_format, completion.opened) is not None
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return torch.tensor(kept, dtype=torch.float32)
