"""Answers as text: the dressing removed that says nothing about which answer it is.

Two depths. `clean` gives what may still be handed to a LaTeX parser; `plain` also undoes the LaTeX of words and
spaces, for the rules that compare strings, numbers and options.
"""

from __future__ import annotations

import re

_UNICODE = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "²": "^2", "³": "^3"}
    | {"\u00d7": r"\times ", "·": r"\cdot ", "π": r"\pi ", "≈": r"\approx "}
)
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence)\b[\s,:]*)?(?:(?:(?:the|my)\s+)?(?:(?:final|correct|right)\s+)?"
    r"(?:answer|option|choice)\b(?:\s+is\b)?\s*:?\s*(?:(?:option|choice)\s+)?)?",
    re.IGNORECASE,
)
_ABOUT = re.compile(r"\s*(?:about|approximately|approx\.?|roughly|exactly|\\approx|~)\s*", re.IGNORECASE)
_WORDS = re.compile(r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\\[,;:! ]|\\q?quad\b|\\(?:left|right|displaystyle)\b|~")
_DEGREES = re.compile(r"\^?\s*\{?\s*(?:\\circ|\\degree|°)\s*\}?")
_WORD_ANSWER = re.compile(r"[^\W\d_]+(?:[\s'-]+[^\W\d_]+)*")
_YES_NO = re.compile(r"(yes|true|no|false)\b", re.IGNORECASE)
_NESTING = 4
"""How deep `\\text{}` within `\\text{}` is undone; a limit, so that hostile nesting costs linear time."""


def clean(text: str) -> str:
    r"""The answer out of `\boxed{}`, dollar signs, quotes, Markdown and leading words ("so", "answer is", "about")."""
    text = " ".join(text.split())  # first of all, since runs of spaces make the patterns below slow
    text = re.sub(r"\\[()\[\]]|\\?\$", "", _unbox(text)).translate(_UNICODE)
    text = re.sub(r"√\s*(\d+|[a-z])", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi", text)
    for lead in (_LEAD, _ABOUT):
        if (match := lead.match(text)) and text[match.end() :].strip():
            text = text[match.end() :]
    return text.strip(" \t\n*`\"'“”").rstrip(".,;").strip(" \t\n*`\"'“”")


def plain(text: str) -> str:
    r"""`clean`, with `\text{}` and its kin unwrapped, LaTeX spaces as spaces, and degrees as a word."""
    text = clean(text)
    for _ in range(_NESTING):
        text, changes = _WORDS.subn(r"\1", text)
        if not changes:
            break
    text = _SPACES.sub(" ", text)
    text = _DEGREES.sub(" degrees ", text).replace(r"\%", "%").replace("{,}", ",")
    text = re.sub(r"\\[dt]frac\b", r"\\frac", text)
    return " ".join(text.split()).rstrip(".,;")


def same_text(left: str, right: str) -> bool:
    """Whether two answers are the same words: case, spaces and a leading article aside. Nothing equals nothing."""
    left, right = _key(left), _key(right)
    return bool(left) and left == right


def yes_or_no(text: str) -> bool | None:
    """`True` for an answer that opens with yes or true, `False` for no or false, `None` for any other."""
    match = _YES_NO.match(plain(text))
    return None if match is None else match[1].casefold() in ("yes", "true")


def is_words(text: str) -> bool:
    """Whether an answer is ordinary words, at least one of three letters: a product of variables to a LaTeX parser."""
    text = plain(text)
    return _WORD_ANSWER.fullmatch(text) is not None and re.search(r"[^\W\d_]{3}", text) is not None


def is_vague(text: str) -> bool:
    """Whether an answer is words that only say about what it is ("about half"); numbers may be rounded."""
    text = _unbox(" ".join(text.split()))
    match = _ABOUT.match(text)
    return match is not None and not re.match(r"exactly", text.strip(), re.IGNORECASE) and is_words(text[match.end() :])


def is_balanced(text: str) -> bool:
    """Whether every brace closes, in order: a parser reads an unbalanced answer as whatever half it understands."""
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def closing_braces(text: str) -> dict[int, int]:
    """Where each brace closes, by where it opens; those that never close are left out."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            closing[opened.pop()] = brace.start()
    return closing


def _key(text: str) -> str:
    text = re.sub(r"^(?:the|an?)\s+(?=\w{2})", "", plain(text).casefold())
    return re.sub(r"\s+", "", text)


def _unbox(text: str) -> str:
    r"""The inside of the last `\boxed{}`; the text as it is where there is none, or its braces never close."""
    start = max((match.end() for match in re.finditer(r"\\boxed\s*\{", text)), default=0)
    end = closing_braces(text).get(start - 1) if start else None
    return text if end is None else text[start:end]
