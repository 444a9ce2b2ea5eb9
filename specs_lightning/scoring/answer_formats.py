"""The formats in which a prompt may ask for its answer: how each is asked for, written and read.

Reading is strict, so that one definition serves the format reward, the filters of the preference pairs and the
evaluation. The lenient reader, for accuracy, is `answer_search`.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from specs_lightning.scoring.text import closing_braces


class Parts(NamedTuple):
    """What a well-formed response holds."""

    reasoning: str
    answer: str


class AnswerFormat(ABC):
    """One way of writing reasoning and an answer."""

    @property
    @abstractmethod
    def instruction(self) -> str:
        """What a prompt says to ask for this format."""

    @abstractmethod
    def write(self, reasoning: str, answer: str) -> str:
        """The response in this format."""

    @abstractmethod
    def read(self, text: str) -> Parts | None:
        """The parts of a response that keeps the format exactly; `None` of any other."""


@dataclass(frozen=True)
class TagFormat(AnswerFormat):
    """`<think>…</think><answer>…</answer>`, or the same with other tag names: each tag once, nothing around them."""

    reasoning_tag: str
    answer_tag: str

    @property
    def instruction(self) -> str:
        think, end_think, open_answer, end_answer = self.tags
        return f"Reason inside {think} {end_think}, then answer inside {open_answer} {end_answer}."

    @property
    def tags(self) -> tuple[str, str, str, str]:
        """The four tags, in the order in which they must stand."""
        return (f"<{self.reasoning_tag}>", f"</{self.reasoning_tag}>", f"<{self.answer_tag}>", f"</{self.answer_tag}>")

    def write(self, reasoning: str, answer: str) -> str:
        think, end_think, open_answer, end_answer = self.tags
        return f"{think}{reasoning}{end_think}\n{open_answer}{answer}{end_answer}"

    def read(self, text: str) -> Parts | None:
        if any(text.count(tag) != 1 for tag in self.tags):
            return None
        think, end_think, open_answer, end_answer = map(re.escape, self.tags)
        match = re.fullmatch(rf"\s*{think}(.*){end_think}\s*{open_answer}(.*){end_answer}\s*", text, re.DOTALL)
        if match is None or not match[2].strip():
            return None
        return Parts(match[1].strip(), match[2].strip())


_MATHS = {"": "", "$": "$", "$$": "$$", r"\]": r"\[", r"\)": r"\("}
"""What opens maths, by what closes it."""


class BoxedFormat(AnswerFormat):
    r"""Reasoning, then the answer in exactly one `\boxed{}`, at the end and without tags."""

    instruction = r"Reason first, then end with the answer in \boxed{}."

    def write(self, reasoning: str, answer: str) -> str:
        return rf"{reasoning} \boxed{{{answer}}}"

    def read(self, text: str) -> Parts | None:
        if text.count(r"\boxed") != 1 or re.search(r"</?\w+>", text):
            return None
        box = next(boxes_backwards(text), None)
        if box is None or not box.inside.strip():
            return None
        opens = _MATHS.get(re.sub(r"[\s.]", "", text[box.end :]))
        if opens is None:
            return None
        return Parts(text[: box.start].rstrip().removesuffix(opens).strip(), box.inside.strip())


class JsonFormat(AnswerFormat):
    """One JSON object with the keys `reasoning` and `answer`, and nothing around it."""

    instruction = 'Reply with JSON: {"reasoning": "...", "answer": "..."}.'

    def write(self, reasoning: str, answer: str) -> str:
        return json.dumps({"reasoning": reasoning, "answer": answer}, ensure_ascii=False)

    def read(self, text: str) -> Parts | None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # the latter of brackets nested too deeply
            return None
        if not isinstance(value, dict) or set(value) != {"reasoning", "answer"} or value["answer"] is None:
            return None
        reasoning, answer = (restore_latex(str(value[key])).strip() for key in ("reasoning", "answer"))
        return Parts(reasoning, answer) if answer else None


FORMATS: dict[str, AnswerFormat] = {
    "think_answer": TagFormat("think", "answer"),
    "reasoning_solution": TagFormat("reasoning", "solution"),
    "boxed": BoxedFormat(),
    "json": JsonFormat(),
}


REASONING_TAGS = tuple(form.tags[0] for form in FORMATS.values() if isinstance(form, TagFormat))
"""Those that a chat template may open for the model."""


def answer_format(name: str) -> AnswerFormat:
    """The format of this name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown answer format {name!r}; there are: {', '.join(FORMATS)}")
    return FORMATS[name]


def read_asked(text: str, asked: str, opened: str = "") -> Parts | None:
    """The parts of a response that keeps the asked format exactly; `None` of any other.

    Args:
        text: the response, from what the prompt `opened` on.
        asked: the format's name.
        opened: the tag that the chat template opens for the model. A format that has another beginning is looked for
            behind the thought that this tag begins, which is the template's and not the format's.
    """
    form, tag = answer_format(asked), opened.strip()
    if tag and not (isinstance(form, TagFormat) and form.tags[0] == tag):
        _, closed, text = text.partition(f"</{tag[1:]}")
        return form.read(text) if closed else None
    return form.read(text)


class Box(NamedTuple):
    r"""A `\boxed{…}` in a text, from `start` to `end`."""

    start: int
    end: int
    inside: str


def boxes_backwards(text: str) -> Iterator[Box]:
    r"""Every `\boxed{…}` whose braces balance, the last opening first."""
    closing = closing_braces(text)
    for opening in reversed(list(re.finditer(r"\\boxed\s*\{", text))):
        if (end := closing.get(opening.end() - 1)) is not None:
            yield Box(opening.start(), end + 1, text[opening.end() : end])


_SWALLOWED = re.compile(
    "\x08(?=[a-z])|\x0c(?=[a-z])|\t(?=imes|ext|heta|an\\b|au\\b|o\\b|frac|riangle|herefore)"
    "|\r(?=ight|ho\\b|angle)|\n(?=eq|abla|ot\\b)"
)
_ESCAPES = {"\x08": r"\b", "\x0c": r"\f", "\t": r"\t", "\r": r"\r", "\n": r"\n"}


def restore_latex(text: str) -> str:
    r"""The text of a JSON string with its LaTeX commands whole again: to JSON, `\frac` is a form feed and "rac"."""
    return _SWALLOWED.sub(lambda match: _ESCAPES[match[0]], text)
