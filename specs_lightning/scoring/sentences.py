r"""Reasoning in whole sentences: what introduced the answer, and what delimited it, is not a part of it.

`So the area is \boxed{5}` ends reasoning in a phrase without an end once the answer is taken out of it. Preference
pairs made of such texts would differ in more than their format.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

_END = re.compile(
    r"(?<![.!?])(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)(?<!\bFig)(?<!\bEq)[.!?]+[\"')\]*]*(?=\s|$)|[。！？]|\n\s*"
)
"""Where a sentence ends; a line ends one, too."""
_ENDED = re.compile(r"[.!?。！？][\"')\]*]*\s*$")
_HANGING = re.compile(
    r"(?:[,:=<>(\[{+\-–—→≈&/\\：，、]|[所以因此故则是为]"
    r"|\b(?:so|therefore|thus|hence|then|because|since|if|when|while|as|but|and|or|nor|not|than"
    r"|is|are|was|were|be|been|being|equals?|gives?|gets?|makes?|has|have|had|will|would|should|must|can|could|may"
    r"|the|an|this|these|its|my|our|we|of|to|in|on|at|by|for|from|with|into|that|which|who|what|whose|answer"
    r"|i\.e|e\.g)\b)\W*$",
    re.IGNORECASE,
)
"""Ends that something must follow."""
_HEADING = re.compile(
    r"\W*(?:(?:(?:so|thus|therefore|hence)\W+)?(?:(?:the|my|our)\s+)?(?:(?:final|correct|right)\s+)?"
    r"(?:answer|solution|result|conclusion|option|choice|reasoning|答案)|\d+|[A-Za-z])?\W*|\s*#+ [^\n]*\s*",
    re.IGNORECASE,
)
"""What says nothing by itself: a heading, the number of a step, signs alone."""
_FIRST_HEADING = re.compile(r"\A\s*#+ [^\n]*\n")
_ANNOUNCEMENT = re.compile(
    r"\b(?:answer|solution|option|choice)\b[^.;\n]{0,20}?(?:\b(?:is|are|be|was)\b|[:=])|答案\s*(?:是|为|[:：])",
    re.IGNORECASE,
)
_BEFORE_ANSWER = re.compile(r"(?:\\(?:boxed|text)\s*\{|\\[(\[]|[\s*$({\[\"'`_（【])+$")
_DRESSING = " \t\n*$`_\"'()[]{}\\.,:;（）【】。"
_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_TAG = re.compile(r"</?[A-Za-z]\w*>")
_DELIMITER = re.compile(rf"{_TAG.pattern}|\\boxed|\{{\s*\"|\"\s*\}}")
_ESCAPED_BRACE = re.compile(r"\\[{}]")
_SHORT, _TAIL = 60, 200
"""Characters of a heading, and those at a text's end that patterns look at: they stay fast on degenerate text."""


def whole_sentences(text: str, answer: str) -> str:
    """The text to the end of its last whole sentence, without tags and boxes; empty where there is none.

    A last line without a full stop counts, unless it ends in what something must follow ("so the area is"), or is the
    answer alone.
    """
    kept = _cut(_sentences(_bare(text)), lambda said: not _is_whole(said) or _is_alone(said, answer))
    return _join(kept)


def sentences_before(text: str, answer: str) -> str:
    r"""The whole sentences of a text that an answer follows, without the one that introduces it.

    `We add. So the area is \boxed{` leaves `We add.`, and `a + b = 5 \boxed{`, which already says so, `a + b = 5`
    where the answer is 5. What announces the same answer before is left out as well.
    """
    before = text[:-_TAIL] + _BEFORE_ANSWER.sub("", text[-_TAIL:])
    sentences = _sentences(_bare(before))
    if "\n" not in text[len(before) :] and not (_ENDED.search(sentences[-1]) or _says(sentences[-1], answer)):
        sentences.pop()  # the sentence that the answer ends
    return _join(_cut(sentences, lambda said: not _is_whole(said) or _announces(said, answer)))


def has_delimiter(text: str) -> bool:
    r"""Whether a text holds a tag, a `\boxed`, or quotes and braces as JSON and boxes leave them: `no"}`, `no}`."""
    braces = _ESCAPED_BRACE.sub("", text)
    return bool(_DELIMITER.search(text)) or text.count('"') % 2 > 0 or braces.count("{") != braces.count("}")


def _sentences(text: str) -> list[str]:
    """The text in pieces, each with its end; what follows the last end is a piece, too."""
    ends = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


def _cut(sentences: list[str], cut_off: Callable[[str], bool]) -> list[str]:
    """The sentences without those at the end that are to be cut off."""
    kept = len(sentences)
    while kept and cut_off(sentences[kept - 1]):
        kept -= 1
    return sentences[:kept]


def _is_whole(sentence: str) -> bool:
    said = sentence.strip()
    if any(said.endswith(sign) and said.count(sign) % 2 for sign in ("$", "**")):
        return False  # which opens what is not there
    if len(said) <= _SHORT and _HEADING.fullmatch(said):
        return False
    return bool(_ENDED.search(said[-_TAIL:])) or not _HANGING.search(said[-_SHORT:])


def _says(sentence: str, answer: str) -> bool:
    """Whether a sentence ends in the answer."""
    said, answer = (text.strip(_DRESSING).casefold() for text in (sentence, answer))
    return bool(answer) and bool(re.search(rf"(?<![\w.]){re.escape(answer)}$", said))


def _is_alone(sentence: str, answer: str) -> bool:
    return sentence.strip(_DRESSING).casefold() == answer.strip(_DRESSING).casefold()


def _announces(sentence: str, answer: str) -> bool:
    """Whether a sentence gives the answer as such, by itself or as in "The answer is 5."."""
    if _is_alone(sentence, answer) or (found := _ANNOUNCEMENT.search(sentence)) is None:
        return _is_alone(sentence, answer)
    sought = re.escape(answer.strip(_DRESSING).casefold())
    return bool(re.search(rf"(?<![\w.]){sought}(?!\w|\.\d)", sentence[found.end() :].casefold()))


def _bare(text: str) -> str:
    """The text without tags and the heading above it, and with what stands in boxes for these."""
    return _FIRST_HEADING.sub("", _TAG.sub("\n", _BOX.sub(r"\1", text)))


def _join(sentences: list[str]) -> str:
    text = "".join(sentences).strip()
    return "" if has_delimiter(text) else text
