"""The lenient reader: the answer of a response in whatever form it stands, for accuracy.

Strict reading, format by format, is `answer_formats`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from specs_lightning.scoring.answer_formats import FORMATS, answer_format, tag_formats

_BE = r"(?:is|are|was|would\s+be|should\s+be|must\s+be|will\s+be|has\s+to\s+be)"
_ANNOUNCED = re.compile(
    rf"(?:\banswer\b(?:\s+(?:to|for|of|in)\b[^\n.:]{{0,120}}?)?(?:\s+(?:option|choice))?(?:\s+{_BE}\b|\**\s*:)"
    rf"|\b(?:correct|right|best|final|matching)\s+(?:option|choice|result|one|value)\b[^\n.:?!]{{0,60}}?"
    rf"(?:\s+{_BE}\b|\**\s*:)"
    rf"|\b(?:option|choice)\b(?:\s+letter)?(?:\s+{_BE}\b|\**\s*:)"
    r"|\b(?:choose|select|pick)\s+(?:option|choice|answer)?\b"
    r"|(?:答案|选项)(?:应该是|应为|是|为)?\s*:?|(?:应|故)选(?:择)?\s*:?)"
    r"[\s:*]*(?P<answer>[^\s:*][^\n]*)",
    re.IGNORECASE,
)
"""What says that the answer follows."""
_LETTER_FIRST = re.compile(
    r"(?:\boption|\bchoice|\banswer)?\s*(?P<answer>\([A-Z]\)|\b[A-Z])(?:[.:)][^\n.]{0,80}?)?[\s\"'*]+"
    r"(?:is|would\s+be|must\s+be|seems\s+to\s+be)\s+(?:(?:the|most\s+likely|probably)\s+)*"
    r"(?:correct|right|best|answer|true|closest)",
)
_CONCLUDES = re.compile(r"\b(?:therefore|thus|hence|so)\b", re.IGNORECASE)
_COMES_TO = re.compile(r"(?:\b(?:is|are|equals)\b|[=≈])\s*(?=[-$\\(]*\d)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[\w)}\]$%*\"']{2})[.!](?=\s|$)|(?<=\d)\.(?=\s|$)|[;?](?=\s|$)")
_REASON = re.compile(r"[,\s]+(?:because|since|as\s+(?:it|the|they|this|we)|which|due\s+to|so\s+that|given\s+that)\b")
_STATES = re.compile(
    r"(?:\b(?:is|are|equals?|gives?|was|were|(?:would|should|must|will)\s+be|approximately|about)\b|=|≈|\\approx)\s*(?=\S)"
)
_THERE = re.compile(
    r"\b(?:there|we|i|you|it)(?:\s+(?:are|is|have|has|can\s+see|see|get|find|count))\b\s*", re.IGNORECASE
)
_INTRODUCED = re.compile(r"\A[*_]*[^\W\d]+(?: [^\W\d]+)?[*_]*:[*_]* +(?=\S)")
"""`Result: ` and the like."""
_LABEL_ALONE = re.compile(r"\W*([A-Z])\W*")
_COURTESY = re.compile(r"\b(?:hope\s+this|let\s+me\s+know|anything\s+else|any\s+other\s+questions?)\b", re.IGNORECASE)
"""What a chat ends with, behind its answer."""
_TAG = re.compile(r"</?(?!image)[A-Za-z]+(?:[_-][A-Za-z]+)*>")
_SHORT = 4
"""Words of a last line that may be an answer without an introduction."""


def find_answer(text: str, asked: str = "think_answer") -> str | None:
    r"""The answer of a response in whatever form it stands, the asked format first.

    Then, in this order: the last pair of answer tags (or the last one that is opened), where the asked format has the
    answer, the last complete `\boxed{}`, a JSON `answer` key, what is announced last as the answer ("the correct option
    is", "C is the right answer", "答案:"), what the last sentence states ("the value is 5", "x = 5", "there are 5
    apples"), and the last line if it is short.
    `None` where nothing is found. Takes time in proportion to the text, whatever stands in it.
    """
    form = answer_format(asked)
    if parts := form.read(text):
        return parts.answer
    if (tagged := in_tags(text, asked)) is not None:
        return tagged or None
    for other in (form, *FORMATS.values()):
        if (found := other.find(text)) is not None:
            return found or None
    bare = re.sub(r"[^\S\n]+", " ", _TAG.sub("\n", text)).replace("：", ":")
    return _announced(bare) or _stated(bare)


def in_tags(text: str, asked: str = "think_answer") -> str | None:
    """What stands between the last pair of answer tags, or behind the last one if it is never closed."""
    found = (form.find(text) for form in tag_formats(asked))
    return next((inside for inside in found if inside is not None), None)


def _announced(text: str) -> str | None:
    """What is announced last; or a number that a later line comes to, or the label that is the last line."""
    lines = list(_lines(text))
    if lines and (label := _LABEL_ALONE.fullmatch(lines[-1][0])):
        return label[1]
    found = [
        (line.start() + match.start(), match["answer"])
        for line in lines
        for pattern in (_ANNOUNCED, _LETTER_FIRST)
        for match in pattern.finditer(line[0])
    ]
    if found:
        found += [concluded for line in lines if (concluded := _concluded(line)) is not None]
    for _, answer in sorted(found, reverse=True):
        # an announcement within another: "The correct answer is: **Answer:** C"
        if sentence := _first_sentence(answer):
            return sentence
    return None


def _concluded(line: re.Match[str]) -> tuple[int, str] | None:
    """Where a line that ends in a number comes to it, and the number."""
    if not _CONCLUDES.search(line[0]) or not (ends := list(_COMES_TO.finditer(line[0]))):
        return None
    number = line[0][ends[-1].end() :]
    return None if "=" in number else (line.start() + ends[-1].start(), number)


def _first_sentence(text: str) -> str:
    """Up to its full stop, but for the one behind a choice's letter: "C. 12"."""
    text = _REASON.split(_SENTENCE_END.split(text, maxsplit=1)[0], maxsplit=1)[0]
    return text.strip().strip("*").rstrip(".").strip()


def last_sentence(text: str) -> str | None:
    """The last sentence of a response, without courtesies behind it; `None` of none, and of a question."""
    lines = [line[0].strip() for line in _lines(_TAG.sub("\n", text)) if line[0].strip()]
    line = next((line for line in reversed(lines) if not _COURTESY.search(line)), "")
    sentences = [part.strip() for part in _SENTENCE_END.split(line) if part.strip()]
    return sentences[-1] if sentences and not line.endswith("?") else None


def _stated(text: str) -> str | None:
    """What the last line says, if it is short or its last sentence states a value."""
    lines = [line[0].strip() for line in _lines(text) if line[0].strip() and not _COURTESY.search(line[0])]
    if lines and len(lines[-1].split()) <= _SHORT and not _STATES.search(lines[-1]):
        return _INTRODUCED.sub("", lines[-1]).rstrip(".")
    if (last := last_sentence(text)) is None:
        return None
    last = _REASON.split(last, maxsplit=1)[0]
    if there := _THERE.search(last):
        return last[there.end() :].strip() or None
    states = list(_STATES.finditer(last))
    return last[states[-1].end() :].strip().rstrip(".") or None if states else None


def _lines(text: str) -> Iterator[re.Match[str]]:
    return re.finditer(r"[^\n]+", text)
