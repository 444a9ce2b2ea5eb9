"""The token that ends a model's turn, as its chat template writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

_ANSWER = "answer"
_TURNS = [
    {"role": role, "content": [{"type": "text", "text": text}]}
    for role, text in (("user", "?"), ("assistant", _ANSWER))
]


def turn_end(
    processor: Any, stop_ids: Sequence[int] = (), chat_template_kwargs: Mapping[str, Any] | None = None
) -> int:
    """The id with which a completion is to end: what the chat template writes behind an answer.

    A model's tokenizer may name another end token: Gemma's `<eos>` never ends a turn, `<end_of_turn>` does.

    Args:
        processor: of the model, with its tokenizer and chat template.
        stop_ids: those at which sampling stops; the tokenizer's end token if there are none. Another one is never
            taken, since a completion would not end at it.
        chat_template_kwargs: further arguments of the chat template.
    """
    known = list(stop_ids) or [processor.tokenizer.eos_token_id]
    written = next((token for token in _behind_answer(processor, chat_template_kwargs or {}) if token in known), None)
    if written is not None:
        return written
    eos: int = processor.tokenizer.eos_token_id
    return eos if eos in known else known[0]


def _behind_answer(processor: Any, chat_template_kwargs: Mapping[str, Any]) -> list[int]:
    """The ids of what the template writes behind an answer; none where it takes no such turns."""
    try:
        text: str = processor.apply_chat_template(_TURNS, tokenize=False, **chat_template_kwargs)
    except (TemplateError, TypeError, ValueError):
        return []
    _, found, behind = text.rpartition(_ANSWER)
    ids: list[int] = processor.tokenizer(behind, add_special_tokens=False)["input_ids"] if found else []
    return ids
