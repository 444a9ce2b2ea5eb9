"""`judge.jsonl`: what a judge was asked and what that cost. Every process and every attempt has a line of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from specs_lightning.records.record import ONLY_SHOWN, RowFile


@dataclass(frozen=True)
class JudgeUsage:
    """The judge's name and place, and the counts of `judge.Usage`."""

    model: str
    base_url: str | None = None
    questions: int = 0
    cache_hits: int = 0
    unscored: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


JUDGE = RowFile("judge.jsonl", JudgeUsage, ONLY_SHOWN, grows=True)
_COUNTS = [each.name for each in fields(JudgeUsage)[2:]]


def summed_by_model(usages: Iterable[JudgeUsage]) -> list[JudgeUsage]:
    """A judge's lines as one."""
    sums: dict[str, JudgeUsage] = {}
    for one in usages:
        before = sums.setdefault(one.model, JudgeUsage(one.model, one.base_url))
        sums[one.model] = replace(before, **{name: getattr(before, name) + getattr(one, name) for name in _COUNTS})
    return list(sums.values())
