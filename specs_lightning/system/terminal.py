"""What is said to the terminal, or to the log that stands for it: names, answers and paths as they are.

Rich reads square brackets as its markup: a run called `r[lr=1e-6]` would lose a part of its path, and one called
`r[/x]` end in an error after all work. Characters that steer a terminal are shown by their codes, since they may come
from a data set or from a run of somebody else's.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

console = Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)  # a log has no width
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters except tabs and line breaks, and halves of characters, which no file takes."""


def say(text: str, style: str = "") -> None:
    """Print lines, each in one piece: a path that is broken in two is found by nobody."""
    console.print(plain(text, style), soft_wrap=True)


def plain(text: str, style: str = "") -> Text:
    """Text for a table: no markup, nothing that steers the terminal."""
    return Text(visible(text), style)


def visible(text: str) -> str:
    """The text with its control characters shown by their codes, such as `\\x1b`."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def pasted(*words: str | Path) -> str:
    """A command as it is pasted into a shell: words with spaces, brackets and quotes are quoted."""
    return shlex.join(map(str, words))
