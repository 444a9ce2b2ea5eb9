"""From a question to chat messages, its images as parts in their places."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from specs_lightning.scoring.answer_formats import answer_format as format_named

PLACEHOLDER = re.compile(r"<image(?:[ _]?(\d+))?>")
"""`<image>`, the next image, or a numbered one: `<image1>`, `<image 1>`, `<image_1>`."""

_CONTROL_TOKEN = re.compile(r"<\|[a-z][a-z0-9_]+\|>")

_MOVING = re.compile(r"<(video|audio)(?:[ _]?\d+)?>")
"""Placeholders of what is not read: refused, since the question would be asked without it."""

Message = dict[str, Any]
"""`role` and `content`: a text with images as placeholders, or once they are laid out a list of parts."""


def build_messages(
    question: str,
    n_images: int,
    choices: Sequence[str] = (),
    answer_format: str = "think_answer",
    system: str | None = None,
    add_instruction: bool = True,
) -> tuple[Message, ...]:
    """One user message that asks the question, after a system message if there is one.

    An image part stands where the text has the image's placeholder; images without one come first. Where numbered
    placeholders stand out of order, `lay_out` also tells the order of the images. `ValueError` where the text asks for
    more images than there are, or holds control tokens such as `<|image_pad|>`.
    """
    instruction = format_named(answer_format).instruction if add_instruction else None
    turns = question_turns(question, choices, system, instruction)
    return lay_out(turns, n_images)[0]


def question_turns(question: str, choices: Sequence[str], system: str | None, instruction: str | None) -> list[Message]:
    """The question, its choices as lines `(A) text`, and on the last line how to answer."""
    lines = [question.strip(), *choice_lines(choices)]
    if instruction is not None:
        lines.append(instruction)
    user = {"role": "user", "content": "\n".join(lines)}
    return [user] if system is None else [{"role": "system", "content": system}, user]


def choice_lines(choices: Sequence[str]) -> list[str]:
    """`(A) text`, `(B) text`, …"""
    if len(choices) > len(string.ascii_uppercase):
        raise ValueError(f"too many choices: {len(choices)}, there are letters for {len(string.ascii_uppercase)}")
    return [f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]


def fill_in(template: str, question: str, choices: Sequence[str]) -> str:
    """A template's text with the question and its choices; nothing in these is taken for a placeholder."""
    values = {"{question}": question.strip(), "{choices}": "\n".join(choice_lines(choices))}
    return re.sub(r"\{question\}|\{choices\}", lambda match: values[match[0]], template).strip()


def message_turns(messages: Any, system: str | None, instruction: str | None) -> list[Message]:
    """Chat messages of a data set as turns, the instruction added to the last; `ValueError` where they are no such."""
    if not isinstance(messages, list | tuple):
        raise ValueError(f"messages are not a list: {type(messages).__name__}")
    turns = [as_turn(message) for message in messages]
    if not turns or turns[-1]["role"] != "user":
        raise ValueError("messages do not end with the user's: leave out what answers them, and give it as `answer`")
    if system is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    if instruction is not None:
        turns[-1]["content"] += f"\n{instruction}"
    return turns


def lay_out(
    turns: Sequence[Message], n_images: int, sheet: bool = False
) -> tuple[tuple[Message, ...], tuple[int, ...]]:
    """Put an image part at each placeholder, and the images without one before the first user's text.

    A further mention of a numbered image becomes the words `image 2`.

    Args:
        n_images: how many images the row has.
        sheet: the row can hold one image only, so that several numbered placeholders name the figures on it (as in
            MathVision, which prints these names on the image): the image comes first and the names stay in the text.

    Returns:
        The messages, and the order in which their image parts show the images (indices into the row's own order).
        `ValueError` where there are fewer images than the text asks for, or a turn holds control tokens, or
        placeholders of a video or a sound.
    """
    for turn in turns:
        if found := _CONTROL_TOKEN.search(turn["content"]):
            raise ValueError(f"control token in the text: {found[0]}")
        if found := _MOVING.search(turn["content"]):
            raise ValueError(f"{found[1]}, only images are read: {found[0]} in the text")
    mentions = [number for turn in turns for number in PLACEHOLDER.findall(turn["content"])]
    if sheet and n_images == 1 and "" not in mentions and len(set(mentions)) > 1:
        contents = [_join([turn["content"]]) for turn in turns]
        order: list[int] = []
    else:
        contents, order = _place(turns, _images_of(mentions, n_images))
    leading = [image for image in range(n_images) if image not in order]
    first_user = next(i for i, turn in enumerate(turns) if turn["role"] == "user")
    if leading and any(part["type"] == "image" for parts in contents[:first_user] for part in parts):
        raise ValueError("image placeholder before the first user's message, and images without one")
    contents[first_user] = [{"type": "image"} for _ in leading] + contents[first_user]
    messages = tuple({**turn, "content": parts} for turn, parts in zip(turns, contents, strict=True))
    return messages, (*leading, *order)


def _place(turns: Sequence[Message], meant: Sequence[int]) -> tuple[list[list[dict[str, Any]]], list[int]]:
    """The parts of each turn, given the image that each placeholder means, and the images in their parts' order."""
    remaining = iter(meant)
    contents, order = [], []
    for turn in turns:
        # `split` alternates texts and the numbers of the placeholders between them.
        first, *texts = PLACEHOLDER.split(turn["content"])[::2]
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


def message_images(messages: Any) -> list[Any]:
    """The images that stand in messages themselves, in order: as Qwen's `{"type": "image", "image": …}` parts have
    them, or OpenAI's `{"type": "image_url", "image_url": {"url": …}}`. Most only have their places there."""
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    parts = [part for content in contents if isinstance(content, list | tuple) for part in content]
    found = [_image_of(part) for part in parts if isinstance(part, Mapping)]
    return [image.removeprefix("file://") if isinstance(image, str) else image for image in found if image]


def _image_of(part: Mapping[str, Any]) -> Any:
    if part.get("type") == "image_url":
        url = part.get("image_url")
        return url.get("url") if isinstance(url, Mapping) else url
    return next((part[key] for key in ("image", "path", "url") if part.get(key)), None)


_ROLES = {"human": "user", "gpt": "assistant"}


def as_turn(message: Any) -> Message:
    """A message as a data set holds it, which may be anything: `role` and `content`, or ShareGPT's `from` and `value`.

    `ValueError` where it has neither, or is of other parts than texts and images.
    """
    role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
    if not isinstance(role, str):
        raise ValueError("message without a role")
    role = _ROLES.get(role, role)
    content = message.get("content", message.get("value"))
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list | tuple):
        raise ValueError(f"message content is neither text nor parts: {type(content).__name__}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url"):
            texts.append("<image>")
        elif kind in ("video", "video_url", "audio", "input_audio"):
            raise ValueError(f"{kind.removesuffix('_url')}, only images are read: a message part of type {kind!r}")
        else:
            raise ValueError(f"message part is neither text nor image: {kind!r}")
    return {"role": role, "content": "".join(texts)}
