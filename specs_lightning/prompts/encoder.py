"""From a question to chat messages, and from these to what the model takes.

Nothing is ever truncated: a prompt cut inside its image block has fewer image tokens than image features.
"""

from __future__ import annotations

import json
import logging
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor
from transformers import ProcessorMixin

from specs_lightning.groups import EncodedPrompt, Prompt
from specs_lightning.prompts.image_tensors import ImageMemory, ImageTensors
from specs_lightning.prompts.images import BadImage, load_image
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.scoring.answer_formats import answer_format as format_named

log = logging.getLogger(__name__)

PLACEHOLDER = re.compile(r"<image(?:[ _]?(\d+))?>")
"""`<image>`, the next image, or a numbered one: `<image1>`, `<image 1>`, `<image_1>`."""

_CONTROL_TOKEN = re.compile(r"<\|[a-z][a-z0-9_]+\|>")
_NOT_VISION = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


class PromptTooLong(ValueError):
    """A prompt that has more tokens than the limit allows."""


class SpecialTokenInText(ValueError):
    """A text that holds one of the tokenizer's special tokens."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A message as text, its images as placeholders."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Chat messages, and the order in which their image parts show the images (indices into the row's own order)."""

    messages: tuple[dict[str, Any], ...]
    image_order: tuple[int, ...]


def build_messages(
    question: str,
    n_images: int,
    choices: Sequence[str] = (),
    answer_format: str = "think_answer",
    system: str | None = None,
    add_instruction: bool = True,
) -> tuple[dict[str, Any], ...]:
    """One user message that asks the question, after a system message if there is one.

    An image part stands where the text has the image's placeholder; images without one come first. Where numbered
    placeholders stand out of order, `lay_out` also tells the order of the images.

    Raises:
        ValueError: the text asks for more images than there are, or holds control tokens such as `<|image_pad|>`.
    """
    turns = question_turns(question, choices, answer_format, system, add_instruction)
    return lay_out(turns, n_images).messages


def question_turns(
    question: str, choices: Sequence[str], answer_format: str, system: str | None, add_instruction: bool
) -> list[Turn]:
    """The question, its choices as lines `(A) text`, and on the last line how to answer."""
    lines = [question.strip(), *choice_lines(choices)]
    if add_instruction:
        lines.append(format_named(answer_format).instruction)
    user = Turn("user", "\n".join(lines))
    return [user] if system is None else [Turn("system", system), user]


def choice_lines(choices: Sequence[str]) -> list[str]:
    """`(A) text`, `(B) text`, …"""
    if len(choices) > len(string.ascii_uppercase):
        raise ValueError(f"too many choices: {len(choices)}, there are letters for {len(string.ascii_uppercase)}")
    return [f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]


def fill_in(template: str, question: str, choices: Sequence[str]) -> str:
    """A template's text with the question and its choices; nothing in these is taken for a placeholder."""
    values = {"{question}": question.strip(), "{choices}": "\n".join(choice_lines(choices))}
    return re.sub(r"\{question\}|\{choices\}", lambda match: values[match[0]], template).strip()


def message_turns(messages: Any, answer_format: str, system: str | None, add_instruction: bool) -> list[Turn]:
    """Chat messages of a data set as turns, the instruction added to the last.

    Raises:
        ValueError: they do not end with a user's message, or are no chat messages of texts and images.
    """
    if not isinstance(messages, list | tuple):
        raise ValueError(f"messages are not a list: {type(messages).__name__}")
    turns = [_as_turn(message) for message in messages]
    if not turns or turns[-1].role != "user":
        raise ValueError("messages do not end with the user's")
    if system is not None and turns[0].role != "system":
        turns.insert(0, Turn("system", system))
    if add_instruction:
        turns[-1] = Turn("user", f"{turns[-1].text}\n{format_named(answer_format).instruction}")
    return turns


def lay_out(turns: Sequence[Turn], n_images: int, sheet: bool = False) -> Layout:
    """Put an image part at each placeholder, and the images without one before the first user's text.

    A further mention of a numbered image becomes the words `image 2`.

    Args:
        turns: the conversation.
        n_images: how many images the row has.
        sheet: the row can hold one image only, so that several numbered placeholders name the figures on it (as in
            MathVision, which prints these names on the image): the image comes first and the names stay in the text.

    Raises:
        ValueError: there are fewer images than the text asks for, or a turn holds control tokens.
    """
    for turn in turns:
        if found := _CONTROL_TOKEN.search(turn.text):
            raise ValueError(f"control token in the text: {found[0]}")
    mentions = [number for turn in turns for number in PLACEHOLDER.findall(turn.text)]
    if sheet and n_images == 1 and "" not in mentions and len(set(mentions)) > 1:
        contents = [_join([turn.text]) for turn in turns]
        order: list[int] = []
    else:
        contents, order = _place(turns, _images_of(mentions, n_images))
    leading = [image for image in range(n_images) if image not in order]
    first_user = next(i for i, turn in enumerate(turns) if turn.role == "user")
    if leading and any(part["type"] == "image" for parts in contents[:first_user] for part in parts):
        raise ValueError("image placeholder before the first user's message, and images without one")
    contents[first_user] = [{"type": "image"} for _ in leading] + contents[first_user]
    messages = tuple({"role": t.role, "content": parts} for t, parts in zip(turns, contents, strict=True))
    return Layout(messages, (*leading, *order))


def _place(turns: Sequence[Turn], meant: Sequence[int]) -> tuple[list[list[dict[str, Any]]], list[int]]:
    """The parts of each turn, given the image that each placeholder means, and the images in their parts' order."""
    remaining = iter(meant)
    contents, order = [], []
    for turn in turns:
        # `split` alternates texts and the numbers of the placeholders between them.
        first, *texts = PLACEHOLDER.split(turn.text)[::2]
        pieces: list[str | None] = [first]
        for text in texts:
            image = next(remaining)
            if image in order:
                pieces += [f"image {image + 1}", text]
            else:
                order.append(image)
                pieces += [None, text]
        contents.append(_join(pieces))
    return contents, order


def _join(pieces: Sequence[str | None]) -> list[dict[str, Any]]:
    """Content parts of texts and images (`None`), neighbouring texts in one."""
    parts: list[dict[str, Any]] = []
    for piece in pieces:
        if piece is None:
            parts.append({"type": "image"})
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += piece
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _images_of(mentions: Sequence[str], n_images: int) -> list[int]:
    """The index of the image that each placeholder means, given their numbers ("" where there is none)."""
    numbered = {int(number) - 1 for number in mentions if number}
    free = [image for image in range(n_images) if image not in numbered]
    if any(not 0 <= image < n_images for image in numbered) or mentions.count("") > len(free):
        raise ValueError(f"more image placeholders than images: {len(mentions)} in the text, {n_images} in the row")
    unnumbered = iter(free)
    return [int(number) - 1 if number else next(unnumbered) for number in mentions]


def _as_turn(message: Any) -> Turn:
    """A message as a data set holds it; it may be anything."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ValueError("message without a role")
    content = message.get("content")
    if isinstance(content, str):
        return Turn(message["role"], content)
    if not isinstance(content, list | tuple):
        raise ValueError(f"message content is neither text nor parts: {type(content).__name__}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image":
            texts.append("<image>")
        else:
            raise ValueError(f"message part is neither text nor image: {kind!r}")
    return Turn(message["role"], "".join(texts))


class PromptEncoder:
    """Prompts to tensors and texts to token ids, by a model's own processor.

    Args:
        processor: of a vision-language model, with a tokenizer, an image processor and a chat template.
        max_prompt_tokens: the longest prompt that is taken, image tokens included; `None` for any.
        image_memory_gib: what processed images may take; those not used lately are processed again when needed.

    Raises:
        ValueError: the tokenizer has no end-of-turn token, or a size is out of range.
    """

    def __init__(
        self, processor: ProcessorMixin, max_prompt_tokens: int | None = None, image_memory_gib: float = 0.25
    ) -> None:
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens must be positive, not {max_prompt_tokens}")
        if image_memory_gib < 0:
            raise ValueError(f"image_memory_gib must not be negative, but is {image_memory_gib}")
        self.processor = processor
        self.tokenizer = processor.tokenizer
        if self.tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no eos token, so completions could not end")
        self.max_prompt_tokens = max_prompt_tokens
        self._memory = ImageMemory(int(image_memory_gib * 2**30))
        self._known: WeakValueDictionary[tuple[Any, ...], EncodedPrompt] = WeakValueDictionary()
        special = [token for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        self._special_tokens = tuple(token.content for token in special)

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """The prompt's ids, `input_ids` of shape (P,) with image placeholders expanded, and its images' tensors.

        Raises:
            BadImage: an image cannot be read, or the processor refuses it (one a hundred times as wide as high).
            PromptTooLong: it has more than `max_prompt_tokens`.
            ValueError: its image parts and images differ in number, or its text holds special tokens.
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
        return self.tokenizer(text, **options)["input_ids"]

    def length(self, prompt: Prompt, sizes: Sequence[tuple[int, int]]) -> int:
        """How many tokens the prompt has, from the sizes of its images alone.

        Args:
            prompt: the prompt.
            sizes: each image's width and height in pixels.

        Raises:
            AttributeError, NotImplementedError: the model's family cannot tell; `encode` can.
            SpecialTokenInText: its text holds special tokens.
        """
        self._check_parts(prompt)
        length = len(self.template_ids(prompt))
        if sizes:
            processor: Any = self.processor  # transformers declares the method for some families only
            counted = processor._get_num_multimodal_tokens(image_sizes=[(h, w) for w, h in sizes])
            length += sum(counted["num_image_tokens"]) - len(sizes)
        return length

    def encode_completion(self, text: str) -> list[int]:
        """The ids of a completion's text and of the end of its turn.

        Raises:
            ValueError: the text holds special tokens.
        """
        self._refuse_special_tokens(text, "completion")
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of token ids, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _encode(self, prompt: Prompt) -> EncodedPrompt:
        self._check_parts(prompt)
        inputs = self._process(prompt)
        input_ids = inputs["input_ids"][0]
        if self.max_prompt_tokens is not None and len(input_ids) > self.max_prompt_tokens:
            raise PromptTooLong(
                f"prompt longer than {self.max_prompt_tokens} tokens: prompt {prompt.id} has {len(input_ids)}"
            )
        tensors = _image_tensors(inputs)
        if not tensors:
            return EncodedPrompt(prompt.id, input_ids, prompt=prompt)
        images = ImageTensors(tensors, lambda: _image_tensors(self._process(prompt)), self._memory)
        encoded = EncodedPrompt(prompt.id, input_ids, images, prompt=prompt)
        images.keep_with(encoded)
        return encoded

    def _process(self, prompt: Prompt) -> Mapping[str, Tensor]:
        """What the processor makes of a prompt, a batch of one."""
        text, options = self._template(prompt)
        images = [_load(prompt.id, number, image) for number, image in enumerate(prompt.images, 1)]
        try:
            return self.processor(text=[text], images=images or None, return_tensors="pt", **options)
        except ValueError as error:
            if not images:
                raise
            raise BadImage(f"image refused by the processor: prompt {prompt.id} ({error})") from error

    def _template(self, prompt: Prompt) -> tuple[str, dict[str, Any]]:
        """The prompt's text with one placeholder an image, and how to tokenize it."""
        text = self.processor.apply_chat_template(list(prompt.messages), tokenize=False, add_generation_prompt=True)
        # Some templates write the beginning-of-sequence token themselves; the tokenizer would add a second one.
        bos = self.tokenizer.bos_token
        return text, {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def _check_parts(self, prompt: Prompt) -> None:
        parts = [part for m in prompt.messages if not isinstance(m["content"], str) for part in m["content"]]
        n_parts = sum(part["type"] == "image" for part in parts)
        if n_parts != len(prompt.images):
            raise ValueError(f"prompt {prompt.id} has {len(prompt.images)} images and {n_parts} image parts")
        self._refuse_special_tokens(prompt.text, f"prompt {prompt.id}")

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


def try_encode(encoder: PromptEncoder, prompt: Prompt, set_aside: SetAside) -> EncodedPrompt | None:
    """The encoded prompt; `None`, and a row set aside, if it is too long, or its text or an image cannot be used."""
    try:
        return encoder.encode(prompt)
    except (PromptTooLong, BadImage, SpecialTokenInText) as error:
        set_aside.add(prompt.metadata["source_file"], prompt.metadata["source_row"], str(error))
        log.warning("prompt set aside: %s", error)
        return None


def encode_all(encoder: PromptEncoder, prompts: Iterable[Prompt], set_aside: SetAside) -> list[EncodedPrompt]:
    encoded = (try_encode(encoder, prompt, set_aside) for prompt in prompts)
    return [prompt for prompt in encoded if prompt is not None]
