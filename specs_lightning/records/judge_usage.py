"""`judge.jsonl`: what a judge was asked and what that cost. Every process and every attempt has a line of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Self

from specs_lightning.records.record import ONLY_SHOWN, RowFile


@dataclass
class Usage:
    """What a judge has cost so far."""

    questions: int = 0
    """Asked of it, repetitions within a call left out."""
    cache_hits: int = 0
    """Of these, answered without a request."""
    unscored: int = 0
    """Of these, left without a verdict."""
    requests: int = 0
    """Sent, each attempt counted."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Self:
        return replace(self, **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)})


@dataclass(kw_only=True)
class JudgeUsage(Usage):
    """That of a judge by its name and place."""

    model: str
    base_url: str | None = None


JUDGE = RowFile("judge.jsonl", JudgeUsage, ONLY_SHOWN, grows=True)


def summed_by_model(usages: Iterable[JudgeUsage]) -> list[JudgeUsage]:
    """A judge's lines as one."""
    sums: dict[str, JudgeUsage] = {}
    for one in usages:
        sums[one.model] = sums[one.model] + one if one.model in sums else one
    return list(sums.values())
