"""Answers as text: the dressing removed that says nothing about which answer it is.

Three depths. `clean` gives what may still be handed to a LaTeX parser; `plain` also undoes the LaTeX of words and
spaces, for the rules that read numbers and options; `same_notation` and `same_text` compare what is left.
All take time in proportion to the text, of which the first `LONGEST` characters count.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LONGEST = 2000
"""Characters of an answer that are read: more is no answer, and patterns that backtrack stay cheap."""

_GREEK = {
    chr(code): "\\" + (name[-1].lower() if name[1] == "SMALL" else name[-1].capitalize()) + " "
    for code in (*range(0x391, 0x3AA), *range(0x3B1, 0x3CA))
    if (name := unicodedata.name(chr(code), "").split()) and len(name) == 4
}
_SIGNS = {
    **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\u2015", "-"),
    **{"\u2044": "/", "\u2236": ":", "\u3002": ".", "\u3001": ",", "\u2032": "'", "\u2033": '"'},
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "≈": r"\approx "},
    **{"≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\neq ", "∞": r"\infty ", "∠": r"\angle "},
    **{"△": r"\triangle ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "⊥": r"\perp ", "∥": r"\parallel "},
}
_UNICODE = str.maketrans(_GREEK | _SIGNS)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_FRACTION = re.compile("[¼-¾⅐-⅞]")
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence|then)\b[\s,:]*|(?:因此|所以|故|综上)[,:\s]*)?"
    r"(?:(?:(?:the|my|our)\s+)?(?:(?:final|correct|right|best)\s+){0,2}(?:answer|option|choice)\b"
    r"(?:\s+(?:is|are|would\s+be|should\s+be|must\s+be)\b)?\s*[:=]?\s*(?:(?:option|choice)\s+)?"
    r"|(?:the\s+)?(?:result|solution|value)(?:\s+of\s+\S{1,20})?(?:\s+(?:is|are)\b|\s*[:=])\s*"
    r"|(?:it|this|that)(?:\s+(?:is|must\s+be|should\s+be)|'s)\s+"
    r"|(?:正确|最终)?(?:答案|选项|结果)(?:应该是|应为|是|为)?[:\s]*(?:选(?:择|项)?\s*)?|(?:应|故)?选(?:择|项)?[:\s]*)?",
    re.IGNORECASE,
)
_ABOUT = re.compile(r"\s*(?:about|approximately|approx\.?|roughly|exactly|\\approx|~|约|大约)\s*", re.IGNORECASE)
_WORDS = re.compile(r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\\[,;:! ]|\\q?quad\b|\\(?:left|right|displaystyle)\b|~")
_DEGREES = re.compile(r"(?:\*|\{ ?\})? ?\^? ?\{? ?(?:\\(?:circ|degree)(?![A-Za-z])|°)(?: ?\})?")
_SAME_COMMANDS = {
    **{"dfrac": "frac", "tfrac": "frac", "leqslant": "le", "leq": "le", "geqslant": "ge", "geq": "ge", "ne": "neq"},
    **{"lt": "<", "gt": ">"},
}
_COMMAND = re.compile(r"\\(" + "|".join(_SAME_COMMANDS) + r")(?![A-Za-z])")
_WORD_ANSWER = re.compile(r"[^\W\d_]+(?:[\s'-]+[^\W\d_]+)*")
_WORD = re.compile(r"[^\W\d_]{3}|[^\W\d_\u0000-\u024f]")
"""Three letters, or one of a script that writes words in one or two."""
_LATEX_OR_NAME = re.compile(
    r"\\[A-Za-z]+|(?<![A-Za-z])(?:a?(?:sin|cos|tan)h?|arc(?:sin|cos|tan)|[cs]ec|csc|cot|log|ln|exp|sqrt|frac|lim|max|min"
    r"|mod|gcd|lcm|det|and|or|pi|infty|inf|[A-Z]+)(?![A-Za-z])"
)
"""What a formula may have of letters in a row: commands, functions, the names of points."""

_YES_NO = re.compile(
    r"(?:(yes|true|是的?|对|正确)|(no|false|否|不是|错误?|不对))"
    r"(?=$|\s*[,.;:!(\n]|\s+(?:because|since|as|it|they|he|she|the|there|this|that|we|i|you)\b)"
    r"(?!\W*(?:or|and|/)?\W*(?:yes|no|true|false)\b)",
    re.IGNORECASE,
)
_DRESSING = " *`\"'“”"
_NESTING = 4
"""How deep `\\text{}` within `\\text{}` is undone; a limit, so that hostile nesting costs linear time."""


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    r"""The answer out of `\boxed{}`, dollar signs, quotes, Markdown and leading words ("so", "answer is", "about").

    Full-width and other compatible characters are as they are typed in ASCII (NFKC), signs and Greek letters are LaTeX.
    """
    text = " ".join(text[:LONGEST].split())  # first of all, since runs of spaces make the patterns below slow
    if not text.isascii():
        text = _in_ascii(text)
    text = re.sub(r"\\[()\[\]]|\\?\$|\\textdollar\b", "", _unbox(text))
    text = re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi", text)
    text = " ".join(text.split())
    for lead in (_LEAD, _ABOUT):
        if (match := lead.match(text)) and text[match.end() :].strip():
            text = text[match.end() :]
    return text.strip(_DRESSING).rstrip(".,;\\").strip(_DRESSING)


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    r"""`clean`, with `\text{}` and its kin unwrapped, LaTeX spaces as spaces, and degrees as a word."""
    text = clean(text)
    for _ in range(_NESTING):
        text, changes = _WORDS.subn(r"\1", text)
        if not changes:
            break
    text = re.sub(r"(?<=\d) ?~ ?(?=\d)", " to ", text)  # 10~20; elsewhere it is LaTeX's space
    text = " ".join(_SPACES.sub(" ", text).split())
    text = _DEGREES.sub(" degrees ", text).replace(r"\%", "%").replace("{,}", ",").replace("{}", "")
    text = _COMMAND.sub(lambda match: _same_command(match[1]), text)
    return " ".join(text.split()).rstrip(".,;")


def same_notation(left: str, right: str) -> bool:
    """Whether two answers are written alike, spaces and LaTeX dressing aside. Nothing equals nothing."""
    left, right = notation(left), notation(right)
    return bool(left) and left == right


def notation(text: str) -> str:
    """`plain`, without spaces but those between digits, braces around one character and the marks of subscripts: H_{2}O
    is H2O."""
    text = re.sub(r"\{(\w)\}", r"\1", plain(text))
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)|_", "", text).replace(r"\times", "*").replace(r"\cdot", "*")


def same_text(left: str, right: str) -> bool:
    """Whether two answers are the same words: case, spaces and a leading article aside. Nothing equals nothing."""
    left, right = _words_key(left), _words_key(right)
    return bool(left) and left == right


def yes_or_no(text: str) -> bool | None:
    """`True` for an answer that is yes or true, alone or with its reason; `False` for no or false; else `None`.

    "No parking" says neither, nor does "yes or no".
    """
    match = _YES_NO.match(plain(text))
    return None if match is None else match[1] is not None


def is_words(text: str) -> bool:
    """Whether an answer is ordinary words, at least one of three letters: a product of variables to a LaTeX parser."""
    text = plain(text)
    return _WORD_ANSWER.fullmatch(text) is not None and _WORD.search(text) is not None


def is_prose(text: str) -> bool:
    """Whether an answer has ordinary words among whatever else it has: nothing that a LaTeX parser should read."""
    return _WORD.search(_LATEX_OR_NAME.sub(" ", plain(text))) is not None


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


def _in_ascii(text: str) -> str:
    """Its characters as they would be typed: NFKC, but for what NFKC loses, which is the height of a digit."""
    text = _SUPERSCRIPTS.sub(lambda match: f"^{{{match[0].translate(_RAISED)}}}", text).translate(_LOWERED)
    text = _FRACTION.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]), text)
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"√ ?(?:\(([^()]*)\)|(?=\{)|(\d+(?:\.\d+)?|[A-Za-z]))", _root, text)
    return text.translate(_UNICODE)


def _root(match: re.Match[str]) -> str:
    inside = match[1] or match[2]
    return r"\sqrt" if inside is None else rf"\sqrt{{{inside}}}"


def _same_command(name: str) -> str:
    other = _SAME_COMMANDS[name]
    return rf"\{other}" if other.isalpha() else other


def _words_key(text: str) -> str:
    text = re.sub(r"^(?:the|an?)\s+(?=\w{2})", "", plain(text).casefold())
    return re.sub(r"[\s_]+", "", text)


def _unbox(text: str) -> str:
    r"""The inside of the last `\boxed{}`; the text as it is where there is none, or its braces never close."""
    start = max((match.end() for match in re.finditer(r"\\boxed\s*\{", text)), default=0)
    end = closing_braces(text).get(start - 1) if start else None
    return text if end is None else text[start:end]
