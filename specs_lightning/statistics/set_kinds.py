"""The kinds of sets out of distribution: what stands before the first slash of a set's name (`formats/boxed`)."""

from __future__ import annotations

from collections.abc import Collection


def kind_of(name: str) -> str:
    """The kind of a set, empty for one without: that of `formats/boxed` is `formats`."""
    kind, slash, _ = name.partition("/")
    return kind if slash else ""


def by_kind(names: Collection[str]) -> dict[str, list[str]]:
    """The sets of each kind, in their order; those without a kind under the empty name."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(kind_of(name), []).append(name)
    return found


def kind_weights(names: Collection[str]) -> dict[str, float]:
    """α, with a sum of 1: kinds weigh alike, and the sets within each; those without a kind count as one."""
    kinds = by_kind(names)
    return {name: 1 / (len(kinds) * len(kinds[kind_of(name)])) for name in names}
