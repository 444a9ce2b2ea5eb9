"""The one cause within what jsonargparse says of settings that it cannot take.

It says a tree: of a union what each type says, of a class what the class's own parser says, each indented below its
setting's name. The most telling leaf is the cause, and the names on the way to it are the setting.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import yaml

from specs_lightning.settings.files import config_files, files_below

_SETTING = re.compile(r'Parser key "([^"]*)"(?: element \d+)?: ?\n?')
_CLASS = re.compile(r"Problem with given class_path '[^']*':\n")
_FUNCTION = re.compile(r"Type .* expects a function or a callable class: (.*)\. Got value: .*", re.DOTALL)
_NO_PATH = re.compile(r"- Expected a path but .* either not accessible or invalid\n- ")
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes\nSubtypes: \[(.*)\]\nErrors:\n(.*)\n"
    r"Given value type: .*?\nGiven value: (.*)",
    re.DOTALL,
)
_UNKNOWN = re.compile(
    r"(?:Group '(?P<group>\S+)' does not accept option '|Subcommand '\w+' does not accept option '|Option '|"
    r"unrecognized arguments: --)(?P<name>[\w.-]+)"
)
_LEFT_OVER = re.compile(r"unrecognized arguments: ([^-\s]\S*)")
_COMMAND = re.compile(r"\b(?:fit|validate|test|predict)\.")
_REQUIRED = re.compile(r"the following arguments are required: (.*)")
_TYPE = re.compile(r"(?:Expected an? |(Not a valid subclass of) )(.+?)\. Got value: (.*)", re.DOTALL)
_OTHERS = {
    re.compile(r"File does not exist: '(.*)'"): "no such file: {} (paths are relative to the working directory)",
    re.compile(r"Expected a dot import path string: (.*)"): "no class {}: give its whole path, as package.module.Class",
    re.compile(r"Import path (?:\S+ )?does not correspond to a subclass of (\w+)"): "that class is no {}",
}
_NO_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")


@dataclass(frozen=True)
class Cause:
    """What is wrong with a setting.

    Args:
        place: the setting's name, and those that it is below; empty where it is no setting.
        text: what is wrong with it.
        value: the value that it has, as the parser shows it, if that is what is wrong.
        vague: it is only not of a type; where several types are possible, another's cause may tell more.
    """

    place: tuple[str, ...]
    text: str
    value: str | None = None
    vague: bool = False

    def __str__(self) -> str:
        return f"{'.'.join(self.place)}: {self.text}" if self.place else self.text

    def found_in(self, args: Sequence[str]) -> str:
        """The cause with the setting's whole name and the line of a file, if it is in one that `args` name."""
        if not self.place:
            return str(self)
        matching = [(place, where) for place, value, where in _given(args) if self._is_at(place, value)]
        place, where = min(matching, key=lambda found: len(found[0]), default=(self.place, ""))
        return where + str(replace(self, place=place))

    def _is_at(self, place: tuple[str, ...], value: str | None) -> bool:
        """Whether a setting may be the one: the parser leaves out the names that a dictionary or a list holds."""
        rest = iter(place)
        within = place[-1:] == self.place[-1:] and all(name in rest for name in self.place)
        return within and (self.value is None or value is None or value.lower() == self.value.lower())


def innermost(message: str, place: tuple[str, ...] = ()) -> Cause:
    """The cause that a message of the parser has at its bottom."""
    message = textwrap.dedent(message).strip("\n")
    if found := _SETTING.match(message):
        return innermost(message[found.end() :], (*place, *_names(found[1])))
    if found := _CLASS.match(message) or _NO_PATH.match(message):
        return innermost(message[found.end() :], place)
    if found := _FUNCTION.match(message):
        return innermost(found[1], place)
    if found := _UNION.match(message):
        return _of_union(found[1], found[2], found[3], place)
    return _leaf(message, place)


def _of_union(types: str, errors: str, value: str, place: tuple[str, ...]) -> Cause:
    listed = re.split(r"^- ", textwrap.dedent(errors), flags=re.MULTILINE)[1:]
    causes = [innermost(re.sub(r"^  ", "", error, flags=re.MULTILINE), place) for error in listed]
    telling = [cause for cause in causes if cause.place != place or not cause.vague]
    return telling[0] if telling else _not_of_type(types, value, place)


def _leaf(message: str, place: tuple[str, ...]) -> Cause:
    """What a message says that holds no other."""
    if found := _UNKNOWN.match(message):
        below = _names(f"{found['group'] or ''}.{found['name']}")
        return Cause((*place, *below), "there is no such setting" + _after_first_line(message))
    if found := _LEFT_OVER.match(message):
        return Cause((), f"{found[1]} is not the value of any setting" + _after_first_line(message))
    if found := _REQUIRED.match(message):
        names = found[1] if place else _COMMAND.sub("", found[1])
        missing = [".".join((*place, *_names(name))) for name in names.split(", ")]
        return Cause((), f"required and not given: {', '.join(missing)}")
    if found := _TYPE.match(message):
        return _not_of_type(found[2], found[3].partition("\nSubclass types expect")[0], place)
    if found := _NO_CLASS.search(message):
        return Cause(place, f"{found[1]} has no {found[2]}" + _did_you_mean(found[2], _public(found[1])))
    for pattern, text in _OTHERS.items():
        if found := pattern.match(message):
            return Cause(place, text.format(found[1]))
    return Cause(place, message, vague=message.startswith("Expected a"))


def _not_of_type(types: str, value: str, place: tuple[str, ...]) -> Cause:
    try:
        text = isinstance(yaml.safe_load(value), str)
    except yaml.YAMLError:
        text = False
    shown = textwrap.shorten(value, 100, placeholder=" …")
    return Cause(place, f"expected {_types(types)}, got {repr(shown) if text else shown}", value, vague=True)


def _types(types: str) -> str:
    """Types as one would write them: `[<class 'int'>, <class 'NoneType'>]` is `int`."""
    types = re.sub(r"<class '([\w.]+)'>", r"\1", types)
    types = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", types)
    types = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", types)
    one_by_one = re.split(r", (?![^\[]*\])", types)  # not those within brackets
    return " or ".join(one for one in one_by_one if one != "NoneType")


def _names(dotted: str) -> list[str]:
    """The parts of a setting's name as one may give it, without `init_args`."""
    return [name for name in dotted.split(".") if name not in ("", "init_args")]


def _after_first_line(message: str) -> str:
    """The hint below a message."""
    _, newline, hint = message.partition("\n")
    return newline + hint


def hint(message: str, known: Sequence[str]) -> str:
    """A line that says what would be right; empty if the message is not about a setting that there is not.

    Args:
        message: the parser's error.
        known: the names of the parser's own settings.
    """
    if "\n" in message:  # it holds a hint, or another message
        return ""
    if found := _LEFT_OVER.match(message):
        return f"\nDid you mean --config {found[1]}?" if "config" in known else ""
    if not (found := _UNKNOWN.match(message)):
        return ""
    wrong = ".".join(_names(f"{found['group'] or ''}.{found['name']}"))
    above = wrong.rpartition(".")[0]
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == above]
    if not beside:
        return _did_you_mean(wrong, known)
    return _did_you_mean(wrong.rpartition(".")[2], beside) or f"\nThere are: {', '.join(beside)}"


def _did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A line that names what is close; empty if nothing is."""
    close = difflib.get_close_matches(wrong, list(known), n=2)
    return f"\nDid you mean {' or '.join(close)}?" if close else ""


def _public(module: str) -> list[str]:
    return [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]


def _given(args: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str | None, str]]:
    """The settings of a command line and of its files, the last first: name, value if it is a plain one, and where."""
    for arg in reversed(args):
        name, equals, value = arg.removeprefix("--").partition("=")
        if arg.startswith("--"):
            yield tuple(_names(name)), value if equals else None, ""
    for config in filter(os.path.isfile, reversed(config_files(args))):
        for file in files_below(config):
            root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            for place, plain, line in _settings(root, ()):
                yield place, plain, f"{file}, line {line}: "


def _settings(node: yaml.Node | None, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str | None, int]]:
    """Each setting below a node of YAML: its name, its value if it is a plain one, and its line."""
    if isinstance(node, yaml.SequenceNode):
        below = [(str(number), item, item) for number, item in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        below = [(str(key.value), key, value) for key, value in node.value]
    else:
        return
    for name, named, item in below:
        inner = (*place, *_names(name)) if name != "<<" else place
        yield inner, item.value if isinstance(item, yaml.ScalarNode) else None, named.start_mark.line + 1
        yield from _settings(item, inner)
