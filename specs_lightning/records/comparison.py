"""`comparison.json`: what several experiments gave, each over its seeds, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from specs_lightning.records.record import RecordFile
from specs_lightning.statistics.intervals import Estimate
from specs_lightning.statistics.seeds import Difference


@dataclass(frozen=True)
class Against:
    """How a figure differs from the first experiment's: over the seeds that both have, and over prompts."""

    by_seed: Difference
    p_by_prompt: float | None
    prompts: int


@dataclass(frozen=True)
class ComparisonRow:
    """What one stage gave in one experiment; `alike` are further experiments that share it."""

    experiment: str
    alike: tuple[str, ...]
    seeds: tuple[int, ...]
    figures: dict[str, Estimate]
    prompts: int = 0
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    against: dict[str, Against] = field(default_factory=dict)
    cpu_seconds: float | None = None
    cpu_seconds_of_run: float | None = None


@dataclass(frozen=True)
class ComparisonRecord:
    """Folders by experiment and seed, why runs have no results by their names, and the rows of each stage."""

    runs: dict[str, dict[int, str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    stages: dict[str, tuple[ComparisonRow, ...]] = field(default_factory=dict)


COMPARISON = RecordFile("comparison.json", ComparisonRecord, "the same `specs compare` writes it anew")
