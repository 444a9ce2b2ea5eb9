"""`pairs_preview.jsonl` and `statistics.json`: what `specs distill` made beside `pairs.parquet`, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from specs_lightning.records.record import ONLY_SHOWN, RecordFile, RowFile


@dataclass(frozen=True, kw_only=True)
class PairPreview:
    """A pair, the prompt's images as small PNGs in base64, and where the two responses came from."""

    prompt: str
    images: tuple[str, ...] = ()
    answer: str | None = None
    chosen: str
    rejected: str | None
    provenance: dict[str, Any] = field(default_factory=dict)


PAIRS_PREVIEW = RowFile("pairs_preview.jsonl", PairPreview, ONLY_SHOWN)
STATISTICS = RecordFile("statistics.json", dict[str, Any], ONLY_SHOWN)
"""Counts by name, some of them by kind; and the settings."""
