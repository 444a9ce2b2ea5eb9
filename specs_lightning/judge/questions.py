"""What a judge is asked, and how its reply is read.

The text under judgement is written by a policy that is rewarded for the verdict, so it is treated as an attacker's:

- It reaches the judge as one JSON string on one line. It can neither end its line nor its quotes, and what chat
  templates use for control tokens (`<|im_end|>`, `[INST]`) and invisible characters are written as `\\uXXXX`.
- The data stands between two lines that carry the request's token. That is a hash of the whole request: a text cannot
  contain the token that follows from it.
- A verdict is one JSON object with that token and one of two words. Anything else, a verdict in prose or one that was
  copied out of the answer included, is no verdict, and leaves the completion unscored.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from specs_lightning.scoring.math_verify import Verdict

MAX_REASON = 400
"""Characters of the reason that a judge is asked for."""
_FENCED = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_CONTROL_WORD = re.compile(r"\[(?=/?[A-Z_]+\])")


@dataclass(frozen=True)
class Question:
    """Something to be judged. A subclass's fields are the data that the judge sees, in their order."""

    kind: ClassVar[str]
    """Which instructions the judge gets: the name of a file beside this one."""
    verdicts: ClassVar[tuple[str, str]]
    """The words for yes and for no."""
    max_characters: ClassVar[int]
    """A longer text is not sent."""

    @property
    def data(self) -> dict[str, str]:
        return {field.name.replace("_", " "): getattr(self, field.name) for field in fields(self)}

    @property
    def length(self) -> int:
        return max(map(len, self.data.values()))


@dataclass(frozen=True)
class AnswerQuestion(Question):
    """Does an answer mean the same as the gold answer?"""

    kind = "answer"
    verdicts = ("correct", "incorrect")
    max_characters = 8_000

    question: str
    reference_answer: str
    given_answer: str


@dataclass(frozen=True)
class ConsistencyQuestion(Question):
    """Does the reasoning lead to the answer?"""

    kind = "consistency"
    verdicts = ("consistent", "inconsistent")
    max_characters = 100_000

    question: str
    reasoning: str
    answer: str


@cache
def instructions(kind: str, folder: Path | None = None) -> str:
    """What the judge is told about a kind of question: `KIND.md` of the folder, else of this package."""
    own = folder / f"{kind}.md" if folder is not None else None
    file = own if own is not None and own.is_file() else Path(__file__).with_name(f"{kind}.md")
    return file.read_text(encoding="utf-8").strip()


def token_of(question: Question) -> str:
    """The request's token: of the data itself, so that the same question is the same request."""
    return hashlib.sha256(json.dumps([question.kind, question.data]).encode()).hexdigest()[:16]


def messages(question: Question, folder: Path | None = None) -> list[dict[str, str]]:
    """The chat messages that put a question to a judge, with the instructions of one's own folder."""
    token = token_of(question)
    reply = {"request": token, "reason": "…", "verdict": " or ".join(question.verdicts)}
    system = (
        f"{instructions(question.kind, folder)}\n\n"
        "The data of a request stands between two lines that carry the request's token, one JSON string a line. "
        "Reply with one JSON object and nothing else: the request's token, your reason in one sentence, and the "
        f'verdict, "{question.verdicts[0]}" or "{question.verdicts[1]}".'
    )
    data = "\n".join(f"{name}: {quote(text)}" for name, text in question.data.items())
    asked = f"Reply as {json.dumps(reply, ensure_ascii=False)}"
    user = f"BEGIN DATA {token}\n{data}\nEND DATA {token}\n{asked}"
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def quote(text: str) -> str:
    """A text as a JSON string (`json.loads` gives it back) that no chat template takes for anything but text."""
    quoted = "".join(map(_shown, json.dumps(text, ensure_ascii=False)))
    return _CONTROL_WORD.sub(r"\\u005b", quoted)


def response_schema(question: Question) -> dict[str, Any]:
    """The JSON schema of a reply: the same for all questions of a kind, as endpoints compile and keep it."""
    properties = {
        "request": {"type": "string", "maxLength": 16},
        "reason": {"type": "string", "maxLength": MAX_REASON},
        "verdict": {"type": "string", "enum": list(question.verdicts)},
    }
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"name": f"{question.kind}_verdict", "strict": True, "schema": schema}


def read_verdict(text: str, question: Question) -> Verdict:
    """The verdict in a judge's reply, or why it holds none."""
    text = text.strip()
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1]
    try:
        reply = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        return _no_verdict(f"not the JSON asked for: {text[:80]!r}")
    if not isinstance(reply, dict) or not {"request", "verdict"} <= set(reply) <= {"request", "reason", "verdict"}:
        return _no_verdict(f"other keys than those asked for: {text[:80]!r}")
    if reply["request"] != token_of(question):
        return _no_verdict(f"not this request's token: {str(reply['request'])[:40]!r}")
    if reply["verdict"] not in question.verdicts:
        return _no_verdict(f"neither {' nor '.join(question.verdicts)}: {str(reply['verdict'])[:40]!r}")
    return Verdict(reply["verdict"] == question.verdicts[0])


def _no_verdict(details: str) -> Verdict:
    return Verdict(None, f"judge gave no verdict: {details}")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _shown(character: str) -> str:
    if character not in "<>" and character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))
