"""The formats in which a prompt may ask for its answer: how each is asked for, written and read.

Reading is strict, so that one definition serves the format reward, the filters of the preference pairs and the
evaluation. `find_answer` is the lenient reader, for accuracy: an answer is right in whatever form it stands.
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


class BoxedFormat(AnswerFormat):
    r"""Reasoning, then the answer in exactly one `\boxed{}`, at the end and without tags."""

    instruction = r"Reason first, then end with the answer in \boxed{}."

    def write(self, reasoning: str, answer: str) -> str:
        return rf"{reasoning} \boxed{{{answer}}}"

    def read(self, text: str) -> Parts | None:
        if text.count(r"\boxed") != 1 or re.search(r"</?\w+>", text):
            return None
        box = next(_boxes_backwards(text), None)
        if box is None or not box.inside.strip() or text[box.end :].strip(" .$\n"):
            return None
        return Parts(text[: box.start].strip(), box.inside.strip())


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


def find_answer(text: str, asked: str = "think_answer") -> str | None:
    r"""The answer of a response in whatever form it stands, the asked format first.

    Then, in this order: the last complete pair of answer tags, the last complete `\boxed{}`, a JSON `answer` key,
    what follows "answer is" or "answer:" on the last line that has it (up to the end of the sentence), and the last
    line if it is short. `None` where nothing is found. Takes time in proportion to the text, whatever stands in it.
    """
    if parts := answer_format(asked).read(text):
        return parts.answer
    for tag_format in (f for f in FORMATS.values() if isinstance(f, TagFormat)):
        tag = tag_format.answer_tag
        if found := re.findall(rf"<{tag}>((?:(?!<{tag}>).)*?)</{tag}>", text, re.DOTALL):
            return found[-1].strip() or None
    if r"\boxed" in text:
        insides = (box.inside.strip() for box in _boxes_backwards(text))
        return next((inside for inside in insides if inside), None)
    if found := re.findall(r'"answer"\s*:\s*(?:("(?:[^"\\]|\\.)*")|"?([^"}\n]+))', text):
        quoted, unquoted = found[-1]
        return (_unquoted(quoted) if quoted else unquoted).strip().rstrip(",").rstrip() or None
    bare = re.sub(r"</?\w+>", "\n", text)
    if found := re.findall(r"answer(?:\s+is\b|\s*:)[\s:]*([^\s:][^\n]*)", bare, re.IGNORECASE):
        # A sentence ends in a full stop, but not behind a choice's letter: "C. 12".
        sentence = re.split(r"(?<=[\w)}\]$%*]{2})\.\s|(?<=\d)\.\s", found[-1], maxsplit=1)[0]
        return sentence.strip().strip("*").rstrip(".").strip() or None
    lines = [line.strip() for line in bare.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines and len(lines[-1].split()) <= 4 else None


class _Box(NamedTuple):
    r"""A `\boxed{…}` in a text, from `start` to `end`."""

    start: int
    end: int
    inside: str


def _boxes_backwards(text: str) -> Iterator[_Box]:
    r"""Every `\boxed{…}` whose braces balance, the last opening first."""
    closing = closing_braces(text)
    for opening in reversed(list(re.finditer(r"\\boxed\s*\{", text))):
        if (end := closing.get(opening.end() - 1)) is not None:
            yield _Box(opening.start(), end + 1, text[opening.end() : end])


_SWALLOWED = re.compile(
    "\x08(?=[a-z])|\x0c(?=[a-z])|\t(?=imes|ext|heta|an\\b|au\\b|o\\b|frac|riangle|herefore)"
    "|\r(?=ight|ho\\b|angle)|\n(?=eq|abla|ot\\b)"
)
_ESCAPES = {"\x08": r"\b", "\x0c": r"\f", "\t": r"\t", "\r": r"\r", "\n": r"\n"}


def restore_latex(text: str) -> str:
    r"""The text of a JSON string with its LaTeX commands whole again: to JSON, `\frac` is a form feed and "rac"."""
    return _SWALLOWED.sub(lambda match: _ESCAPES[match[0]], text)


def _unquoted(quoted: str) -> str:
    r"""The value of a JSON string, or what stands between its quotes where that is LaTeX, such as `\sqrt`."""
    if re.search(r"(?<!\\)(?:\\\\)*\\[bfnrt][a-z]", quoted):
        return quoted[1:-1]
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted[1:-1]
