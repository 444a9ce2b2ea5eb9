"""Texts at which a completion ends, by the rule of vLLM: the token that completes one is its last.

Text is decoded token by token as vLLM does it, by the tokenizers library: a token may complete a character, or several
stop texts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

from specs_lightning.rollout.engine import SamplingSettings

_BROKEN = "Invalid prefix encountered"
"""How the library's error begins where decoded text does not continue what came before."""


class StopWatch:
    """Follows the text of one completion for the first stop text in it.

    Args:
        tokenizer: of the tokenizers library.
        prompt_ids: what the completion continues: whether a text begins with a space may depend on it.
        stop: the texts.
    """

    def __init__(self, tokenizer: Any, prompt_ids: Sequence[int], stop: Sequence[str]) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self._stream = DecodeStream(ids=list(prompt_ids), skip_special_tokens=True)
        self._end = ""
        """Of the text until now, as much as may begin a stop text."""

    def step(self, token: int) -> str | None:
        """The stop text that the next token completes; `None` if none."""
        text = self._end + self._decode(token)
        longest = max(map(len, self.stop))
        self._end = text[max(0, len(text) - longest + 1) :]
        return first_stop(text, self.stop)

    def _decode(self, token: int) -> str:
        try:
            return self._stream.step(self.tokenizer, token) or ""
        except Exception as error:  # the library has no class of its own for it
            if not str(error).startswith(_BROKEN):
                raise
            self._stream = DecodeStream(skip_special_tokens=True)
            return self._stream.step(self.tokenizer, token) or ""


def first_stop(text: str, stop: Sequence[str]) -> str | None:
    """The stop text that is complete first in a text; of those that end together, the one that is named first."""
    ends = [(text.index(one) + len(one), place) for place, one in enumerate(stop) if one in text]
    return stop[min(ends)[1]] if ends else None


def cut_at(text: str, found: str | None, sampling: SamplingSettings) -> str:
    """A completion's text up to the stop text that it was found to end with (`None`: by none)."""
    before, stop_text, _ = text.partition(found) if found else (text, "", "")
    return before + stop_text if sampling.include_stop else before
