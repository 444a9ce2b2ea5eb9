"""`trackers.json`: what each tracker calls its run of a training, so that this goes on in it after a stop."""

from __future__ import annotations

from specs_lightning.records.record import RecordFile

TRACKERS: RecordFile[dict[str, str]] = RecordFile(
    "trackers.json", dict[str, str], "delete it, and the training goes on in a new run of its trackers"
)
