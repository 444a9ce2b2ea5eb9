"""The five ways in which a well-formed response loses its format (paper section 3.1): the rejected side of a pair."""

from __future__ import annotations

import random
from collections.abc import Callable

from specs_lightning.scoring.answer_formats import TagFormat

CORRUPTIONS: dict[str, Callable[[str, TagFormat], str]] = {
    "strip_all_tags": lambda text, tags: _without(text, *tags.tags),
    "strip_answer_tags": lambda text, tags: _without(text, *tags.tags[2:]),
    "strip_reasoning_tags": lambda text, tags: _without(text, *tags.tags[:2]),
    # strips the answer tags and moves the closing reasoning tag to the end
    "close_reasoning_last": lambda text, tags: _without(text, *tags.tags[1:]) + tags.tags[1],
    # replaces the opening answer tag by "Answer:" and drops the closing one
    "announce_answer": lambda text, tags: _without(text.replace(tags.tags[2], "Answer:"), tags.tags[3]),
}


def corrupt(text: str, tags: TagFormat, rng: random.Random, names: list[str] | None = None) -> tuple[str, str]:
    """One of the corruptions, drawn at random from those of these names (all five when not given), and its name.

    Raises:
        ValueError: `text` does not keep the format, so that there is nothing to corrupt.
    """
    if tags.read(text) is None:
        raise ValueError(f"not in the format to be corrupted: {text!r}")
    name = rng.choice(names or list(CORRUPTIONS))
    return CORRUPTIONS[name](text, tags), name


def _without(text: str, *removed: str) -> str:
    for tag in removed:
        text = text.replace(tag, "")
    return text.strip()
