"""Settings: YAML files, one of which may extend another; and what tells one set of settings from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from specs_lightning.errors import SettingsError
from specs_lightning.settings.nested import changes

EXTENDS = "extends"


def read_settings(file: str | Path) -> dict[str, Any]:
    """The settings of a file, on top of those of the file that its key `extends` names, if it has one.

    Dictionaries are merged, however deep; anything else replaces what the other file has, and null removes it. Paths
    are relative to the working directory, as everywhere.

    Raises:
        SettingsError: a file that is extended is not there, or extends one that extends it.
    """
    return _read(Path(file), ())


def _read(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if file in above:
        raise SettingsError(f"files that extend each other: {' -> '.join(map(str, [*above, file]))}")
    if above and not file.is_file():
        raise SettingsError(f"{above[-1]} extends {file}, which is not there (from the working directory)")
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    if not isinstance(settings, dict):
        raise SettingsError(f"{file} does not hold settings by name")
    if EXTENDS not in settings:
        return settings
    below = Path(settings.pop(EXTENDS))
    return _merged(_read(below, (*above, file)), settings)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merged(merged[name], value)
        else:
            merged[name] = value
    return merged


def fingerprint(settings: Mapping[str, Any]) -> str:
    """16 characters that tell one set of settings from another."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for each setting that is another now."""
    plain = json.loads(json.dumps(new, default=str))
    return [f"  {name}: {before} -> {after}" for name, before, after in changes(old, plain)]
