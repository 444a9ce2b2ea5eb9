r"""Reasoning in whole sentences: what introduced the answer, and what delimited it, is not a part of it.

`So the area is \boxed{5}` ends reasoning in a phrase without an end once the answer is taken out of it. Preference
pairs made of such texts would differ in more than their format.
"""

from __future__ import annotations

import re
from itertools import pairwise

_END = re.compile(
    r"(?<![.!?])(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)(?<!\bFig)(?<!\bEq)[.!?]+[\"')\]*]*(?=\s|$)|[。！？]|\n"
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
    r"(?:answer|solution|result|conclusion|option|choice|reasoning|答案)|\d+|[A-Za-z])?\W*",
    re.IGNORECASE,
)
"""What says nothing by itself: a heading, the number of a step, signs alone."""
_ANNOUNCEMENT = re.compile(
    r"\b(?:answer|solution|option|choice)\b[^.;\n]{0,20}?(?:\b(?:is|are|be|was)\b|[:=])|答案\s*(?:是|为|[:：])",
    re.IGNORECASE,
)
_BEFORE_ANSWER = re.compile(r"(?:\\(?:boxed|text)\s*\{|\\[(\[]|[\s*$({\[\"'`_（【])+$")
_DRESSING = " \t\n*$`_\"'()[]{}\\.,:;（）【】。"
_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_TAG = re.compile(r"</?[A-Za-z]\w*>")
_SHORT, _TAIL = 60, 200
"""Characters of a heading, and those at a text's end that patterns look at: they stay fast on degenerate text."""


def whole_sentences(text: str) -> str:
    """The text to the end of its last whole sentence, without tags and boxes; empty where there is none.

    A last line without a full stop counts, unless it ends in what something must follow: "so the area is".
    """
    return _join(_cut(_sentences(_bare(text))))


def sentences_before(text: str, answer: str) -> str:
    r"""The whole sentences of a text that an answer follows, without the one that introduces it.

    `We add. So the area is \boxed{` leaves `We add.`, and `a + b = 5 \boxed{`, which already says so, `a + b = 5`
    where the answer is 5. What announces the same answer before is left out as well.
    """
    before = text[:-_TAIL] + _BEFORE_ANSWER.sub("", text[-_TAIL:])
    sentences = _sentences(_bare(before))
    if "\n" not in text[len(before) :] and not (_ENDED.search(sentences[-1]) or _says(sentences[-1], answer)):
        sentences.pop()  # the sentence that the answer ends
    return _join(_cut(sentences, answer))


def _sentences(text: str) -> list[str]:
    """The text in pieces, each with its end; what follows the last end is a piece, too."""
    ends = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


def _cut(sentences: list[str], answer: str | None = None) -> list[str]:
    """The sentences without those at the end that are none, or that give the answer as such."""
    kept = len(sentences)
    while kept and (not _is_whole(sentences[kept - 1]) or _announces(sentences[kept - 1], answer)):
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


def _announces(sentence: str, answer: str | None) -> bool:
    """Whether a sentence gives the answer as such, by itself or as in "The answer is 5."."""
    if answer is None or not (answer := answer.strip(_DRESSING).casefold()):
        return False
    if sentence.strip(_DRESSING).casefold() == answer:
        return True
    found = _ANNOUNCEMENT.search(sentence)
    said = "" if found is None else sentence[found.end() :].casefold()
    return bool(re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)", said))


def _bare(text: str) -> str:
    """The text without tags, and with what stands in boxes for these."""
    return _TAG.sub("\n", _BOX.sub(r"\1", text))


def _join(sentences: list[str]) -> str:
    text = "".join(sentences).strip()
    return "" if r"\boxed" in text else text
