"""Which prompts are drawn for, and how many at a time: no more than it takes to have the pairs that are wanted.

The order is that of a seed, over all data sets alike, and batches of prompts are cut from it at fixed places. So what
is drawn for a prompt, and which pairs are made, depends neither on the waves nor on where a run was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from specs_lightning.groups import Prompt
from specs_lightning.rollout.engine import prompt_seed

PROMPTS_AT_ONCE = 64
"""Prompts of a batch, which are drawn together."""
MARGIN = 10
"""Percent of prompts more than the pairs still wanted should take: one more wave costs the loading of two models."""


def drawing_order(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """The prompts shuffled, the files that they come from taking turns for as long as they last."""
    by_file: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_file.setdefault(str(prompt.metadata["source_file"]), []).append(prompt)
    shuffled = [sorted(of_file, key=lambda p: prompt_seed(f"order-{seed}", p.id)) for of_file in by_file.values()]
    return [prompt for turn in zip_longest(*shuffled) for prompt in turn if prompt is not None]


def wave_size(wanted: int, made: int, asked: int) -> int:
    """How many prompts to ask next, in whole batches, where `asked` ones gave `made` of the pairs that are wanted.

    A prompt gives one pair at most, so the first wave has as many prompts as pairs are wanted.
    """
    if not asked:
        prompts = wanted
    else:
        prompts = asked if not made else -(-(100 + MARGIN) * (wanted - made) * asked // (100 * made))
    return -(-prompts // PROMPTS_AT_ONCE) * PROMPTS_AT_ONCE
