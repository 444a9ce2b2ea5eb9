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

from specs_lightning.settings.yaml_files import config_files, layers

_WRAPPED = re.compile(
    r"(?:Parser key \"(?P<name>[^\"]*)\"(?: element \d+)?:\s?|Problem with given class_path '[^']*':\n|"
    r"- Expected a path but [^\n]* either not accessible or invalid\n- |"
    r"Type [^\n]* expects a function or a callable class: )(?P<inner>.*)",
    re.DOTALL,
)
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes\nSubtypes: \[(?P<types>.*)\]\nErrors:\n(?P<errors>.*)\n"
    r"Given value type: .*?\nGiven value: (?P<value>.*)",
    re.DOTALL,
)
_UNKNOWN = re.compile(
    r"(?:Group '(?P<group>\S+)' does not accept option '|Subcommand '\w+' does not accept option '|Option '|"
    r"unrecognized arguments: --)(?P<name>[\w.-]+)"
)
_LEFT_OVER = re.compile(r"unrecognized arguments: ([^-\s]\S*)")
_HINT = re.compile(r"\n(?:Did you mean .*\?|There are: [\w, ]*)")
_REQUIRED = re.compile(r"the following arguments are required: (.*)")
_TYPE = re.compile(r"(?:Expected an?|Not a valid subclass of) (.+?)\. Got value: (.*)", re.DOTALL)
_NO_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_NO_PATH = re.compile(r"Expected a dot import path string: (.*)")
_HOMES = {
    "engine": "specs_lightning.rollout",
    "objective": "specs_lightning.objectives",
    "surrogate": "specs_lightning.objectives",
    "advantages": "specs_lightning.objectives",
    "rewards": "specs_lightning.rewards",
    "callbacks": "specs_lightning.callbacks",
    "model": "specs_lightning.modules",
    "data": "specs_lightning.data",
    "logger": "lightning.pytorch.loggers",
    "optimizer": "torch.optim",
}
"""Where the classes of a setting are that one is likely to mean."""
_OTHERS = {
    re.compile(r"File does not exist: '(.*)'"): "no such file: {} (paths are relative to the working directory)",
    re.compile(r"Import path (?:\S+ )?does not correspond to a subclass of (\w+)"): "that class is no {}",
}


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
        given = _given(args) if self.place else ()
        matching = [(place, where) for place, value, where in given if self._is_at(place, value)]
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
    if found := _WRAPPED.match(message):
        return innermost(found["inner"], (*place, *_names(found["name"] or "")))
    if found := _UNION.match(message):
        listed = re.split(r"^- ", textwrap.dedent(found["errors"]), flags=re.MULTILINE)[1:]
        causes = (innermost(re.sub(r"^  ", "", error, flags=re.MULTILINE), place) for error in listed)
        telling = (cause for cause in causes if cause.place != place or not cause.vague)
        return next(telling, None) or _not_of_type(found["types"], found["value"], place)
    return _leaf(message, place)


def _leaf(message: str, place: tuple[str, ...]) -> Cause:
    """What a message says that holds no other."""
    hint = found[0] if (found := _HINT.search(message)) else ""
    if found := _UNKNOWN.match(message):
        return Cause((*place, *_names(f"{found['group'] or ''}.{found['name']}")), f"there is no such setting{hint}")
    if found := _LEFT_OVER.match(message):
        return Cause((), f"{found[1]} is not the value of any setting{hint}")
    if found := _REQUIRED.match(message):
        return Cause((), f"required and not given: {', '.join(_required(found[1], place))}")
    if found := _TYPE.match(message):
        return _not_of_type(found[1], found[2].partition("\nSubclass types expect")[0], place)
    if found := _NO_CLASS.search(message):
        close = _did_you_mean(found[2], dir(importlib.import_module(found[1])))
        return Cause(place, f"{found[1]} has no {found[2]}{close}")
    if found := _NO_PATH.match(message):
        return Cause(place, f"no class {found[1]}: {_class_path(found[1], place)}")
    for pattern, text in _OTHERS.items():
        if found := pattern.match(message):
            return Cause(place, text.format(found[1]))
    return Cause(place, message, vague=message.startswith("Expected a"))


def _class_path(name: str, place: tuple[str, ...]) -> str:
    """What to give instead of a class's short name: `vllm` is `specs_lightning.rollout.VLLMEngine`."""
    home = next((_HOMES[part] for part in reversed(place) if part in _HOMES), None)
    if home is not None:
        classes = {key: found for key, found in vars(importlib.import_module(home)).items() if isinstance(found, type)}
        begins = [key for key in sorted(classes, key=len) if key.lower().startswith(name.strip("'").lower())]
        if begins:
            return f"give its whole path, {home}.{begins[0]}"
    return "give its whole path, as package.module.Class"


def _required(listed: str, place: tuple[str, ...]) -> list[str]:
    """The whole names of missing settings; where none is above them, they begin with LightningCLI's command."""
    names = listed if place else re.sub(r"\b(?:fit|validate|test|predict)\.", "", listed)
    return [".".join((*place, *_names(name))) for name in names.split(", ")]


def _not_of_type(types: str, value: str, place: tuple[str, ...]) -> Cause:
    shown = textwrap.shorten(value, 100, placeholder=" …")
    plain = re.fullmatch(r"[^\W\d][^:{}\[\]]*", value) and value not in ("True", "False", "None")
    return Cause(place, f"expected {_types(types)}, got {repr(shown) if plain else shown}", value, vague=True)


def _types(types: str) -> str:
    """Types as one would write them: `<class 'int'>, <class 'NoneType'>` is `int`."""
    types = re.sub(r"<class '([\w.]+)'>|typing\.Literal\[(.*?)\]", r"\1\2", types)
    types = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", types)
    one_by_one = re.split(r", (?![^\[]*\])", types)  # not those within brackets
    return " or ".join(one for one in one_by_one if one != "NoneType")


def _names(dotted: str) -> list[str]:
    """The parts of a setting's name as one may give it, without `init_args`."""
    return [name for name in dotted.split(".") if name not in ("", "init_args")]


def hint(message: str, known: Sequence[str]) -> str:
    """A line that says what would be right, of a parser that knows these settings; empty if nothing is unknown."""
    if "\n" in message:  # it holds a hint, or another message
        return ""
    if found := _LEFT_OVER.match(message):
        return f"\nDid you mean --config {found[1]}?" if "config" in known else ""
    if not (found := _UNKNOWN.match(message)):
        return ""
    *above, wrong = _names(f"{found['group'] or ''}.{found['name']}")
    beside = [_names(name)[-1] for name in known if _names(name)[:-1] == above]
    if not beside:
        return _did_you_mean(".".join([*above, wrong]), known)
    return _did_you_mean(wrong, beside) or f"\nThere are: {', '.join(beside)}"


def _did_you_mean(wrong: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(wrong, list(known), n=2)
    return f"\nDid you mean {' or '.join(close)}?" if close else ""


def _given(args: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str | None, str]]:
    """The settings of a command line and of its files, the last first: name, value if it is a plain one, and where."""
    for arg in reversed(args):
        name, equals, value = arg.removeprefix("--").partition("=")
        if arg.startswith("--"):
            yield tuple(_names(name)), value if equals else None, ""
    for config in filter(os.path.isfile, reversed(config_files(args))):
        for file, _ in layers(config):
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
