"""Settings: YAML files, one of which may extend another; and what tells one set of settings from another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from specs_lightning.errors import SettingsError
from specs_lightning.settings.nested import changes

EXTENDS = "extends"
KINDS = {"run": {"stages", "evaluation"}, "fit": {"trainer", "data"}, "distill": {"prompts", "zero", "base", "pairs"}}
"""What only a file of these commands has at its top, in the order in which one looks."""


_PACKAGE = Path(__file__).parents[1]
SHIPPED = next((place for place in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if place.is_dir()), None)
"""The configurations that come with the package: in an installed one within it, in a checkout beside it."""


def locate(file: str | Path) -> Path:
    """A file of settings; where there is none of this path, the one that comes with the package.

    That of `configs/toy/specs.yaml`, or `toy/specs.yaml`, is then found from any folder.
    """
    path = Path(file)
    if not path.is_file() and SHIPPED is not None and not path.is_absolute():
        shipped = SHIPPED / (path.relative_to("configs") if path.parts[:1] == ("configs",) else path)
        if ".." not in path.parts and shipped.is_file():
            return shipped
    return path


def with_shipped(args: Sequence[str]) -> list[str]:
    """A command line whose `--config` files are located."""
    found = list(args)
    for i, arg in enumerate(found):
        option, given, file = arg.partition("=")
        if given and option in ("--config", "--config+"):
            found[i] = f"{option}={locate(file)}"
        elif i and found[i - 1] in ("--config", "-c"):
            found[i] = str(locate(arg))
    return found


def read_settings(file: str | Path) -> dict[str, Any]:
    """The settings of a file, on top of those of the file that its key `extends` names, if it has one.

    They are `merged`. Paths are relative to the working directory, as everywhere.

    Raises:
        SettingsError: a file is not there, is not YAML, or extends one that extends it.
    """
    return reduce(merged, reversed([settings for _, settings in layers(file)]))


def layers(file: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """The file and those that it is on top of, the nearest first, with the settings that each has by itself."""
    found: dict[Path, dict[str, Any]] = {}
    extended: str | Path | None = file
    while extended is not None:
        path, above = locate(extended), list(found)
        if path in found:
            raise SettingsError(f"files that extend each other: {' -> '.join(map(str, [*above, path]))}")
        if found and not path.is_file():
            raise SettingsError(f"{above[-1]} extends {path}, which is not there (from the working directory)")
        found[path] = _read(path)
        extended = found[path].pop(EXTENDS, None)
    return list(found.items())


def _read(file: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"no such file: {file} (paths are relative to the working directory)") from error
    except yaml.MarkedYAMLError as error:
        raise SettingsError(f"{file}, line {error.problem_mark.line + 1}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not YAML in UTF-8: {error}") from error
    if not isinstance(settings or {}, dict):
        raise SettingsError(f"{file} does not hold settings by name")
    return settings or {}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings on top of others: dictionaries are merged, however deep; null removes, all else replaces.

    A class in another's place brings its own settings: none of the other's are left.
    """
    found = dict(below)
    for name, value in above.items():
        old = found.get(name)
        if value is None:
            found.pop(name, None)
        elif isinstance(value, dict) and isinstance(old, dict):
            same_class = value.get("class_path", old.get("class_path")) == old.get("class_path")
            found[name] = merged(old, value) if same_class else _without_nulls(value)
        else:
            found[name] = value
    return found


def _without_nulls(value: Any) -> Any:
    """Nothing is left to remove: files may still name the other class's settings for that."""
    if not isinstance(value, dict):
        return value
    return {name: _without_nulls(item) for name, item in value.items() if item is not None}


def config_files(args: Sequence[str]) -> list[str]:
    """The files that a command line names by `--config`."""
    split = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
    return [file for option, file in pairwise(split) if option in ("--config", "-c")]


def kind_of(names: Iterable[str]) -> str | None:
    """The command that settings of these names are for, if they tell; `fit` stands for `validate` and the like, too."""
    roots = {name.partition(".")[0] for name in names}
    return next((kind for kind, own in KINDS.items() if own & roots), None)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for each setting that is another now."""
    plain = json.loads(json.dumps(new, default=str))
    return [f"  {name}: {before} -> {after}" for name, before, after in changes(old, plain)]
