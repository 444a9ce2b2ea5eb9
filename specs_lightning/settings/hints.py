"""What a mistyped setting probably meant: added to the parser's error."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from typing import Any

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from specs_lightning.settings.files import read_settings

set_parsing_settings(docstring_parse_attribute_docstrings=True)

_WRONG_OPTION = re.compile(r"class_path '([\w.]+)':\s*(?:.*\n)*?.*?Option '([\w.]+)' is not accepted")
_WRONG_KEY = re.compile(r"(?:Key '|[Uu]nrecognized arguments?: --|Unknown key '|Option ')([\w.]+)")


def hint(message: str, known: list[str]) -> str:
    """A sentence that names what would be right; empty when the message is not about an unknown key.

    Args:
        message: the parser's error.
        known: the keys of the parser itself, for messages that name no class.
    """
    if found := _WRONG_OPTION.search(message):
        class_path, wrong = found.groups()
        known = list(inspect.signature(_import(class_path)).parameters)
        where = f"{class_path} takes"
    elif found := _WRONG_KEY.search(message):
        wrong, where = found[1], "there are"
    else:
        return ""
    close = difflib.get_close_matches(wrong, known, n=3, cutoff=0.5)
    return f"\nDid you mean {' or '.join(close)}?" if close else f"\n{where}: {', '.join(known)}"


def _import(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class Hinting:
    """A parser whose errors say what would be right, and that guesses nothing: a shortened name is an error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> Any:
        super().error(message + hint(message, _keys(self)), ex)  # type: ignore[misc]


class HintingParser(Hinting, ArgumentParser):
    """For the functions of the command line, whose files may extend one another."""

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        return self.parse_string(yaml.safe_dump(read_settings(path), sort_keys=False), **kwargs)


def _keys(parser: Any) -> list[str]:
    return [action.dest for action in parser._actions if action.dest != "help"]
