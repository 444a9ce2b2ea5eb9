"""From a question to chat messages, and from these to what the model takes.

Nothing is ever truncated: a prompt cut inside its image block has fewer image tokens than image features.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from torch import Tensor
from transformers.utils.chat_template_utils import _get_template_variables

from specs_lightning.errors import SettingsError
from specs_lightning.groups import TOKEN_TYPES, EncodedPrompt, Prompt
from specs_lightning.prompts.image_tensors import ImageMemory, ImageTensors
from specs_lightning.prompts.images import BadImage, load_image
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.prompts.turn_end import turn_end
from specs_lightning.scoring.answer_formats import REASONING_TAGS

if TYPE_CHECKING:
    from transformers import ProcessorMixin

log = logging.getLogger(__name__)

_NOT_VISION = ("input_ids", "attention_mask", *TOKEN_TYPES)
_OPENED = re.compile(rf"(?:{'|'.join(REASONING_TAGS)})\s*\Z")


class PromptTooLong(ValueError):
    """A prompt that has more tokens than the limit allows."""


class SpecialTokenInText(ValueError):
    """A text that holds one of the tokenizer's special tokens."""


class RefusedPrompt(ValueError):
    """A prompt, or a completion, that the chat template, the tokenizer or the processor refuses."""


UNUSABLE = (PromptTooLong, BadImage, SpecialTokenInText, RefusedPrompt)
"""What is wrong with one row, and concerns no other."""
_PROBE = "a text of the user"
_OURS = {"messages", "add_generation_prompt", "continue_final_message"}
"""What templates read and the encoder says."""


class PromptEncoder:
    """Prompts to tensors and texts to token ids, by a model's own processor.

    Args:
        processor: of a vision-language model, with a tokenizer, an image processor and a chat template.
        max_prompt_tokens: the longest prompt that is taken, image tokens included; `None` for any.
        image_memory_gib: what processed images may take; those not used lately are processed again when needed.
        stop_ids: those at which sampling stops, one of which ends a completion; the tokenizer's end token if none.
        chat_template_kwargs: further arguments of the chat template, by name.

    Raises:
        ValueError: a limit out of range.
        SettingsError: a tokenizer without an end token, no chat template that takes messages of parts, or an argument
            that the template does not read.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        max_prompt_tokens: int | None = None,
        image_memory_gib: float = 0.25,
        stop_ids: Sequence[int] = (),
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens must be positive, not {max_prompt_tokens}")
        if image_memory_gib < 0:
            raise ValueError(f"image_memory_gib must not be negative, but is {image_memory_gib}")
        self.processor = processor
        self.tokenizer = processor.tokenizer
        if self.tokenizer.eos_token_id is None:
            raise SettingsError("the tokenizer has no eos token, so completions could not end")
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self._check_template()
        self.max_prompt_tokens = max_prompt_tokens
        self.stop_ids = stop_ids
        self._memory = ImageMemory(int(image_memory_gib * 2**30))
        self._known: WeakValueDictionary[tuple[Any, ...], EncodedPrompt] = WeakValueDictionary()
        self._special_tokens = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """The prompt's ids, `input_ids` of shape (P,) with image placeholders expanded, and its images' tensors.

        Raises:
            BadImage: an image cannot be read, or the processor refuses it (one a hundred times as wide as high).
            PromptTooLong: it has more than `max_prompt_tokens`.
            SpecialTokenInText: its text holds special tokens.
            RefusedPrompt: it has parts of other kinds than text and image (a video), its image parts and images differ
                in number, or the template or the tokenizer refuses it (two user turns in a row, a system turn).
        """
        # The content, since two data sets may use the same id; bytes and paths are hashable.
        key = (prompt.id, json.dumps(prompt.messages), prompt.images)
        encoded = self._known.get(key)
        if encoded is None:
            encoded = self._known[key] = self._encode(prompt)
        return encoded

    def template_ids(self, prompt: Prompt) -> list[int]:
        """The prompt's ids with one placeholder for each image, for engines that expand images themselves."""
        text, options = self._template(prompt)
        return self._tokens(text, f"prompt {prompt.id}", **options)

    def length(self, prompt: Prompt, sizes: Sequence[tuple[int, int]]) -> int:
        """How many tokens the prompt has, from the sizes (width, height, in pixels) of its images alone.

        `AttributeError` or `NotImplementedError` where the model's family cannot tell; `encode` can.
        """
        self._check_parts(prompt)
        length = len(self.template_ids(prompt))
        if sizes:
            processor: Any = self.processor  # transformers declares the method for some families only
            counted = processor._get_num_multimodal_tokens(image_sizes=[(h, w) for w, h in sizes])
            length += sum(counted["num_image_tokens"]) - len(sizes)
        return length

    def encode_completion(self, text: str, opened: str = "") -> list[int]:
        """The ids of a response's text and of its turn's end. What its prompt has `opened` is not written twice.

        `SpecialTokenInText` if it holds special tokens, `RefusedPrompt` if the tokenizer cannot read it.
        """
        tag = opened.strip()
        if text.startswith(opened):
            text = text.removeprefix(opened)
        elif text.lstrip().startswith(tag):
            text = text.lstrip().removeprefix(tag).lstrip()
        self._refuse_special_tokens(text, "completion")
        return [*self._tokens(text, "completion", add_special_tokens=False), self._turn_end]

    @cached_property
    def _turn_end(self) -> int:
        return turn_end(self.processor, self.stop_ids, self.chat_template_kwargs)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of token ids, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _encode(self, prompt: Prompt) -> EncodedPrompt:
        self._check_parts(prompt)
        inputs = self.process(prompt)
        input_ids = inputs["input_ids"][0]
        if self.max_prompt_tokens is not None and len(input_ids) > self.max_prompt_tokens:
            raise PromptTooLong(
                f"prompt longer than {self.max_prompt_tokens} tokens: prompt {prompt.id} has {len(input_ids)}"
            )
        tensors, opened = _image_tensors(inputs), self._opened(prompt)
        types = {name: inputs[name][0] for name in TOKEN_TYPES if name in inputs}
        if not tensors:
            return EncodedPrompt(prompt.id, input_ids, token_types=types, prompt=prompt, opened=opened)
        images = ImageTensors(tensors, lambda: _image_tensors(self.process(prompt)), self._memory)
        encoded = EncodedPrompt(prompt.id, input_ids, images, token_types=types, prompt=prompt, opened=opened)
        images.keep_with(encoded)
        return encoded

    def process(self, prompt: Prompt) -> Mapping[str, Tensor]:
        """What the processor makes of a prompt, a batch of one, which models of transformers take as it is."""
        text, options = self._template(prompt)
        images = [_load(prompt.id, number, image) for number, image in enumerate(prompt.images, 1)]
        options |= {"images": images or None, "return_tensors": "pt"}
        try:
            made: Mapping[str, Tensor] = self.processor(text=[text], **options)
        except Exception as error:  # of one prompt, whatever tokenizers and image processors raise
            if not images:
                raise RefusedPrompt(f"text refused by the tokenizer: prompt {prompt.id} ({_said(error)})") from error
            raise BadImage(f"image refused by the processor: prompt {prompt.id} ({_said(error)})") from error
        return made

    def _tokens(self, text: str, what: str, **options: Any) -> list[int]:
        try:
            ids: list[int] = self.tokenizer(text, **options)["input_ids"]
        except Exception as error:  # tokenizers raise what their language raises of a text that is none
            raise RefusedPrompt(f"text refused by the tokenizer: {what} ({_said(error)})") from error
        return ids

    def _template(self, prompt: Prompt) -> tuple[str, dict[str, Any]]:
        """The prompt's text with one placeholder an image, and how to tokenize it."""
        try:
            text = self._lay_out(prompt.messages)
        except Exception as error:  # templates raise what they want to
            raise RefusedPrompt(f"refused by the chat template: prompt {prompt.id} ({_said(error)})") from error
        # Some templates write the beginning-of-sequence token themselves; the tokenizer would add a second one.
        bos = self.tokenizer.bos_token
        return text, {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def _opened(self, prompt: Prompt) -> str:
        """The reasoning tag that the template opens for the answer, which a question may end in by itself."""
        found = _OPENED.search(self._template(prompt)[0][-80:])
        if found is None:
            return ""
        asked = self._lay_out(prompt.messages, add_generation_prompt=False)
        return "" if asked.endswith(found[0]) else found[0]

    def _lay_out(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        turns: list[Any] = list(messages)
        return self.processor.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt, **self.chat_template_kwargs
        )

    def _check_parts(self, prompt: Prompt) -> None:
        parts = [part for m in prompt.messages if not isinstance(m["content"], str) for part in m["content"]]
        if others := {part["type"] for part in parts} - {"text", "image"}:
            kind = min(others)
            raise RefusedPrompt(f"{kind}, only texts and images are read: prompt {prompt.id} has such a part")
        n_parts = sum(part["type"] == "image" for part in parts)
        if n_parts != len(prompt.images):
            raise RefusedPrompt(
                f"images and image parts differ in number: prompt {prompt.id} has {len(prompt.images)} images and "
                f"{n_parts} image parts"
            )
        self._refuse_special_tokens(prompt.text, f"prompt {prompt.id}")

    def _check_template(self) -> None:
        """One text is laid out, so that what is wrong with all prompts is not said of each."""
        message: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": _PROBE}]}
        try:
            unread = self._unread_arguments()
            text = _PROBE if unread else self._lay_out([message])
        except Exception as error:  # there is none, or it takes no such message
            raise SettingsError(
                f"the model has no chat template that can be used ({_said(error)}): take the instruction-tuned model, "
                "or put its chat_template.jinja into the model's folder"
            ) from error
        if unread:
            raise SettingsError(
                f"chat_template_kwargs: the model's chat template has no argument {', '.join(unread)}; its text in "
                "chat_template.jinja says which it reads"
            )
        if _PROBE not in text or re.search(r"""['"]type['"]\s*:""", text):
            raise SettingsError(
                "the chat template does not read messages of parts, but prints them as a Python list: put the "
                "chat_template.jinja of the model's vision-language release into its folder"
            )

    def _unread_arguments(self) -> list[str]:
        """The names of arguments that the template has no use for, such as misspelt ones, and our own."""
        template = getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template
        read = _get_template_variables(template.get("default") if isinstance(template, dict) else template)
        return sorted(self.chat_template_kwargs.keys() - (read - _OURS))

    def _refuse_special_tokens(self, text: str, what: str) -> None:
        """Special tokens in a text would be taken as such: an image token without its image, a turn ended early."""
        if found := [token for token in self._special_tokens if token in text]:
            raise SpecialTokenInText(f"special token in the text: {what} holds {', '.join(found)}")


def _image_tensors(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in inputs.items() if name not in _NOT_VISION}


def _load(prompt_id: str, number: int, image: Any) -> Any:
    try:
        return load_image(image)
    except BadImage as error:
        raise BadImage(f"{error}, image {number} of prompt {prompt_id}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def try_encode(encoder: PromptEncoder, prompt: Prompt, set_aside: SetAside) -> EncodedPrompt | None:
    """The encoded prompt; `None`, and a row set aside, if it is too long or cannot be used (`UNUSABLE`)."""
    try:
        return encoder.encode(prompt)
    except UNUSABLE as error:
        set_aside.add_prompt(prompt, str(error))
        log.warning("prompt set aside: %s", error)
        return None


def encode_all(encoder: PromptEncoder, prompts: Iterable[Prompt], set_aside: SetAside) -> list[EncodedPrompt]:
    encoded = (try_encode(encoder, prompt, set_aside) for prompt in prompts)
    return [prompt for prompt in encoded if prompt is not None]
