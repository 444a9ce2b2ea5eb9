"""Parsers whose files may extend others, and that say of a wrong setting its one cause and what would be right."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pydoc import locate
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from specs_lightning.errors import SettingsError
from specs_lightning.settings.causes import hint, innermost
from specs_lightning.settings.nested import dotted
from specs_lightning.settings.yaml_files import kind_of, read_settings
from specs_lightning.system.terminal import pasted

NO_SETTINGS = ("help", "print_config", "print_shtab", "subcommand")

set_parsing_settings(
    docstring_parse_attribute_docstrings=True,
    # A class path is made where a setting asks for a class of some kind. Elsewhere it is data, and is not imported.
    instantiate_subclass_spec_in_any=False,
    validate_subclass_spec_in_any=False,
    import_path_denylist=[],  # enforce the one that jsonargparse has: what runs commands or code by name
)


class HintingParser(ArgumentParser):
    """One that guesses nothing, too: a shortened name is an error."""

    args: list[str] = []  # noqa: RUF012  of each parse its own: what was given

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """A file of settings, on top of those that it extends."""
        try:
            settings = read_settings(str(path))
        except SettingsError as error:
            self.error(str(error), error)
        kind = kind_of(settings)
        if kind and kind_of(_keys(self)) not in (None, kind):
            self.error(f"{path} holds the settings of another command: {pasted('specs', kind, '--config', path)}")
        parsed: Namespace = self.parse_string(yaml.safe_dump(settings, sort_keys=False), **kwargs)
        return parsed

    def instantiate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> Any:
        """What the settings name, made; `SettingsError` where a class path names no class, but something to call."""
        for name, path in _class_paths(namespace):
            if not isinstance(locate(path), type):
                raise SettingsError(f"{name}: {path} is no class. A class path names a class; functions are not called")
        return super().instantiate(namespace, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """The one cause, and what would be right; all that the parser says if SPECS_TRACEBACK is set."""
        message += hint(message, _keys(self))
        if not self.exit_on_error or os.environ.get("SPECS_TRACEBACK"):
            super().error(message, ex)
        command = [self.prog.replace(" [options]", ""), *(self.args[:1] if _subparsers(self) else ())]
        self.exit(2, f"{' '.join(command)}: {innermost(message).found_in(self.args)}\n")


def _keys(parser: ArgumentParser) -> list[str]:
    """The names of a parser's settings, those of its subcommands included."""
    names = [action.dest for one in (parser, *_subparsers(parser)) for action in one._actions]
    return [name for name in dict.fromkeys(names) if name not in NO_SETTINGS and not name.endswith(".help")]


def _subparsers(parser: ArgumentParser) -> list[ArgumentParser]:
    subcommands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [inner for action in subcommands for inner in action.choices.values()]


def _class_paths(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Each class path of parsed settings that is to be made, after the setting's name. Dictionaries are data."""
    if isinstance(settings, list | tuple):
        for item in settings:
            yield from _class_paths(item, name)
    if not isinstance(settings, Namespace):
        return
    values = vars(settings)
    if isinstance(path := values.get("class_path"), str):
        yield name, path
    for key, value in values.items():
        yield from _class_paths(value, name if key == "init_args" else dotted(name, key))
