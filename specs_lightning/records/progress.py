"""`progress.json`: how far the work is that a stage is at, while it is at it."""

from __future__ import annotations

from specs_lightning.records.record import ONLY_SHOWN, RecordFile
from specs_lightning.system.progress import FILE, ProgressRecord

PROGRESS = RecordFile(FILE, ProgressRecord, ONLY_SHOWN)
