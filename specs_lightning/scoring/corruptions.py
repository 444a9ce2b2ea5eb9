"""The five ways in which a well-formed response loses its format (paper section 3.1): the rejected side of a pair."""

from __future__ import annotations

import random
from collections.abc import Callable

from specs_lightning.scoring.answer_formats import TagFormat


def strip_all_tags(text: str, tags: TagFormat) -> str:
    return _without(text, *tags.tags)


def strip_answer_tags(text: str, tags: TagFormat) -> str:
    return _without(text, *tags.tags[2:])


def strip_reasoning_tags(text: str, tags: TagFormat) -> str:
    return _without(text, *tags.tags[:2])


def close_reasoning_last(text: str, tags: TagFormat) -> str:
    """Strip the answer tags and move the closing reasoning tag to the end."""
    return _without(text, *tags.tags[1:]) + tags.tags[1]


def announce_answer(text: str, tags: TagFormat) -> str:
    """Replace the opening answer tag by "Answer:" and drop the closing one."""
    return _without(text.replace(tags.tags[2], "Answer: "), tags.tags[3])


CORRUPTIONS: dict[str, Callable[[str, TagFormat], str]] = {
    function.__name__: function
    for function in (strip_all_tags, strip_answer_tags, strip_reasoning_tags, close_reasoning_last, announce_answer)
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
