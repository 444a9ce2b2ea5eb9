"""A model's processor, and one for models that have a tokenizer alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import BatchFeature, PreTrainedTokenizerBase


def load_processor(source: str, takes_images: bool = False) -> Any:
    """The processor of a model folder or hub name; a tokenizer comes as a `TextProcessor`.

    Raises:
        ValueError: the tokenizer or, of a model that takes images, the image processor is not there.
    """
    processor: Any = transformers.AutoProcessor.from_pretrained(source, trust_remote_code=False)
    if isinstance(processor, PreTrainedTokenizerBase):
        if takes_images:
            raise ValueError("the model takes images, and there is no image processor (preprocessor_config.json)")
        processor = TextProcessor(processor)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or len(tokenizer) <= len(tokenizer.added_tokens_decoder):  # transformers makes up an empty one
        raise ValueError("the tokenizer is not there, or has no vocabulary (tokenizer.json)")
    return processor


class TextProcessor:
    """A tokenizer that is used as processors are: messages of parts in, tensors out; it takes no images."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], **options: Any) -> Any:
        """By the tokenizer's template, which wants each message's content as one text."""
        return self.tokenizer.apply_chat_template([m | {"content": _text(m["content"])} for m in messages], **options)

    def __call__(self, text: list[str], images: Sequence[Any] | None = None, **options: Any) -> BatchFeature:
        """The texts as token ids; a ValueError where there are images."""
        if images:
            raise ValueError("the model takes no images")
        return BatchFeature(self.tokenizer(text, **options))

    def save_pretrained(self, folder: Path | str) -> None:
        self.tokenizer.save_pretrained(folder)


def _text(content: str | Sequence[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
