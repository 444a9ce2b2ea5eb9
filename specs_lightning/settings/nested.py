"""Nested settings under dotted names, and where two sets of settings differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NOT_SET = "(not set)"
"""Stands for a setting that one side does not have."""


def flatten(settings: Any, name: str = "") -> dict[str, Any]:
    """The values by their dotted names, as they are given on the command line. An empty mapping is a value."""
    if not isinstance(settings, Mapping) or (name and not settings):
        return {name: settings}
    inner = [flatten(value, dotted(name, key)) for key, value in settings.items()]
    return {leaf: value for part in inner for leaf, value in part.items()}


def changes(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The name of each value that differs, the old and the new one; what is not there is NOT_SET on that side."""
    if old is NOT_SET and isinstance(new, Mapping) and new:
        old = {}
    if new is NOT_SET and isinstance(old, Mapping) and old:
        new = {}
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from changes(old.get(key, NOT_SET), new.get(key, NOT_SET), dotted(name, key))
    elif old != new:
        yield name, old, new


def dotted(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)
