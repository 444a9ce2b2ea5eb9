"""The formats in which a prompt may ask for its answer: how each is asked for, written and read.

Reading is strict, so that one definition serves the format reward, the filters of the preference pairs and the
evaluation. The lenient reader, for accuracy, is `answer_search`.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
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

    @abstractmethod
    def find(self, text: str) -> str | None:
        """The answer where the format puts it, in a response that need not keep it; `None` where nothing is there,
        and an empty text where an answer is announced and missing."""


_ANY_TAG = re.compile(r"</?\w+>")


@dataclass(frozen=True)
class TagFormat(AnswerFormat):
    """`<think>…</think><answer>…</answer>`, or the same with other tags: each tag once, nothing around them."""

    reasoning_tag: str = "think"
    answer_tag: str = "answer"
    brackets: str = "<>"
    """What a tag begins and ends with."""

    @property
    def instruction(self) -> str:
        think, end_think, open_answer, end_answer = self.tags
        return f"Reason inside {think} {end_think}, then answer inside {open_answer} {end_answer}."

    @property
    def tags(self) -> tuple[str, str, str, str]:
        """The four tags, in the order in which they must stand."""
        opens, closes = self.brackets[0], self.brackets[1]
        words = self.reasoning_tag, f"/{self.reasoning_tag}", self.answer_tag, f"/{self.answer_tag}"
        think, end_think, open_answer, end_answer = (f"{opens}{word}{closes}" for word in words)
        return think, end_think, open_answer, end_answer

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

    def find(self, text: str) -> str | None:
        """What stands between the last pair of answer tags, or behind the last one if it is never closed."""
        opening, closing = self.tags[2:]
        opens, closes = re.escape(opening), re.escape(closing)
        if found := list(re.finditer(rf"{opens}((?:(?!{opens}).)*?){closes}", text, re.DOTALL)):
            return found[-1][1].strip()
        _, opened, behind = text.rpartition(opening)
        return behind.strip() if opened and self.brackets[0] not in behind else None


_MATHS = {"": "", "$": "$", "$$": "$$", r"\]": r"\[", r"\)": r"\("}
"""What opens maths, by what closes it."""


@dataclass(frozen=True)
class BoxedFormat(AnswerFormat):
    r"""Reasoning, then the answer in exactly one `\boxed{}`, at the end and without tags."""

    @property
    def instruction(self) -> str:
        return r"Reason first, then end with the answer in \boxed{}."

    def write(self, reasoning: str, answer: str) -> str:
        return rf"{reasoning} \boxed{{{answer}}}"

    def read(self, text: str) -> Parts | None:
        if text.count(r"\boxed") != 1 or _ANY_TAG.search(text):
            return None
        box = next(boxes_backwards(text), None)
        if box is None or not box.inside.strip():
            return None
        opens = _MATHS.get(re.sub(r"[\s.]", "", text[box.end :]))
        if opens is None:
            return None
        return Parts(text[: box.start].rstrip().removesuffix(opens).strip(), box.inside.strip())

    def find(self, text: str) -> str | None:
        r"""The last complete `\boxed{}` that holds something."""
        if r"\boxed" not in text:
            return None
        return next((inside for box in boxes_backwards(text) if (inside := box.inside.strip())), "")


@dataclass(frozen=True)
class JsonFormat(AnswerFormat):
    """One JSON object with the keys `reasoning` and `answer` (or others in their place), and nothing around it."""

    reasoning_key: str = "reasoning"
    answer_key: str = "answer"

    @property
    def instruction(self) -> str:
        return f'Reply with JSON: {{"{self.reasoning_key}": "...", "{self.answer_key}": "..."}}.'

    def write(self, reasoning: str, answer: str) -> str:
        return json.dumps({self.reasoning_key: reasoning, self.answer_key: answer}, ensure_ascii=False)

    def read(self, text: str) -> Parts | None:
        keys = self.reasoning_key, self.answer_key
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # the latter of brackets nested too deeply
            return None
        if not isinstance(value, dict) or set(value) != {*keys} or value[self.answer_key] is None:
            return None
        reasoning, answer = (restore_latex(str(value[key])).strip() for key in keys)
        return Parts(reasoning, answer) if answer else None

    def find(self, text: str) -> str | None:
        """What the last answer key has for a value."""
        found = re.findall(rf'"{re.escape(self.answer_key)}"\s*:\s*(?:("(?:[^"\\]|\\.)*")|"?([^"}}\n]+))', text)
        if not found:
            return None
        quoted, unquoted = found[-1]
        return (unquoted_json(quoted) if quoted else unquoted).strip().rstrip(",").rstrip()


@dataclass(frozen=True)
class LineFormat(AnswerFormat):
    """Reasoning, then one line that begins with `Answer:` (or another word), at the end and without tags."""

    word: str = "Answer"

    @property
    def instruction(self) -> str:
        return f"Reason first, then end with a line that reads {self.word}: and your answer."

    def write(self, reasoning: str, answer: str) -> str:
        return f"{reasoning}\n{self.word}: {answer}"

    def read(self, text: str) -> Parts | None:
        reasoning, line, answer = text.rstrip().rpartition(f"\n{self.word}:")
        if not line or f"{self.word}:" in reasoning or "\n" in answer or not answer.strip() or _ANY_TAG.search(text):
            return None
        return Parts(reasoning.strip(), answer.strip())

    def find(self, text: str) -> str | None:
        """What follows the word, where it last begins a line."""
        found = re.findall(rf"^\W*{re.escape(self.word)}\W*:([^\n]*)", text, re.MULTILINE)
        return found[-1].strip() if found else None


@dataclass(frozen=True)
class HeadingFormat(AnswerFormat):
    """`## Reasoning` and below it the reasoning, then `## Answer` and the answer (or other words in their place)."""

    reasoning_word: str = "Reasoning"
    answer_word: str = "Answer"

    @property
    def headings(self) -> tuple[str, str]:
        return f"## {self.reasoning_word}", f"## {self.answer_word}"

    @property
    def instruction(self) -> str:
        return "Reason under the heading {}, then answer under the heading {}.".format(*self.headings)

    def write(self, reasoning: str, answer: str) -> str:
        first, second = self.headings
        return f"{first}\n{reasoning}\n{second}\n{answer}"

    def read(self, text: str) -> Parts | None:
        first, second = map(re.escape, self.headings)
        match = re.fullmatch(rf"\s*{first}\n(.*)\n{second}\n(.*)", text, re.DOTALL)
        if match is None or "##" in match[1] + match[2] or not match[2].strip() or _ANY_TAG.search(text):
            return None
        return Parts(match[1].strip(), match[2].strip())

    def find(self, text: str) -> str | None:
        """What stands below the last heading of the answer."""
        found = re.findall(rf"^#+ *{re.escape(self.answer_word)}\b:?([^#]*)", text, re.MULTILINE)
        return found[-1].strip() if found else None


FORMATS: dict[str, AnswerFormat] = {
    "think_answer": TagFormat("think", "answer"),
    "reasoning_solution": TagFormat("reasoning", "solution"),
    "boxed": BoxedFormat(),
    "json": JsonFormat(),
}
"""Those with a name of their own. Others are named by their kind and their words (`answer_format`)."""

KINDS: dict[str, Callable[..., AnswerFormat]] = {
    "tags": partial(TagFormat, brackets="<>"),
    "brackets": partial(TagFormat, brackets="[]"),
    "json": JsonFormat,
    "line": LineFormat,
    "headings": HeadingFormat,
}

REASONING_TAGS = tuple(form.tags[0] for form in FORMATS.values() if isinstance(form, TagFormat))
"""Those that a chat template may open for the model."""


@lru_cache
def answer_format(name: str) -> AnswerFormat:
    """The format of this name, or of a kind and words of one's own.

    `tags:plan,reply` is `<plan>…</plan><reply>…</reply>`; `brackets:plan,reply` has `[plan]` for tags;
    `json:plan,reply` is JSON with these keys; `line:Result` ends with a line `Result: …`; `headings:Plan,Reply` has
    them as headings. Without words (`line`) those stand that the kind has by itself.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name in FORMATS:
        return FORMATS[name]
    kind, _, words = name.partition(":")
    if kind in KINDS and re.fullmatch(r"(?:[A-Za-z][\w ]*(?:,|$))*", words):
        with suppress(TypeError):  # too many words
            form = KINDS[kind](*filter(None, words.split(",")))
            if len(set(vars(form).values())) == len(vars(form)):  # parts of one name could not be told apart
                return form
    raise ValueError(
        f"unknown answer format {name!r}; there are: {', '.join(FORMATS)}, or a kind with different words of your own: "
        f"tags:WORD,WORD, brackets:WORD,WORD, json:KEY,KEY, line:WORD, headings:WORD,WORD"
    )


def tag_formats(asked: str = "think_answer") -> list[TagFormat]:
    """All of tags that have a name, and the asked one if it has tags, too: that first."""
    asked_first = (answer_format(asked), *FORMATS.values())
    return list(dict.fromkeys(form for form in asked_first if isinstance(form, TagFormat)))


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


def unquoted_json(quoted: str) -> str:
    r"""The value of a JSON string, or what stands between its quotes where that is LaTeX, such as `\sqrt`."""
    if re.search(r"(?<!\\)(?:\\\\)*\\[bfnrt][a-z]", quoted):
        return quoted[1:-1]
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted[1:-1]
