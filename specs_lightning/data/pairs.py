"""Preference pairs on disk, in the conversational format that TRL and others read unchanged."""

from __future__ import annotations

from pathlib import Path

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.data.tables import Row, read_table
from specs_lightning.errors import DataError
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.pairs import PreferencePair
from specs_lightning.toy import resolve


def load_pairs(path: str, set_aside: SetAside) -> list[PreferencePair]:
    """Read rows with `prompt`, `chosen`, `rejected` and, where there are images, `images`; bad ones are set aside.

    `DataError` where the file is missing or unreadable, lacks a column, or no row can be used.
    """
    table = read_table(Path(resolve(path)))
    if missing := {"prompt", "chosen", "rejected"} - set(table.columns):
        raise DataError(
            f"{path} has no column {', '.join(sorted(missing))}: pairs need prompt, chosen and rejected, "
            f"and it has {', '.join(table.columns)}"
        )
    # Gold answers are not needed here: pairs were verified when they were made.
    unused = dict.fromkeys(("answer", "answer_type", "answer_format", "choices", "messages"), "")
    source = PromptSource(path, add_instruction=False, columns={"question": "prompt", **unused})
    prompts = {(p.metadata["source_file"], p.metadata["source_row"]): p for p in load_prompts(source, set_aside)}
    pairs = []
    for row in table.rows:
        prompt = prompts.get((row.file, row.number))
        if prompt is None:  # set aside already
            continue
        try:
            chosen, rejected = _response(row, "chosen"), _response(row, "rejected")
            if chosen.strip() == rejected.strip():
                raise ValueError("chosen and rejected are the same text")
            pairs.append(PreferencePair(prompt, chosen, rejected, row.values.get("provenance") or {}))
        except ValueError as error:
            set_aside.add(row.file, row.number, str(error))
    if not pairs:
        raise DataError(f"{path} has no usable pair\n{set_aside.summary()}")
    return pairs


def _response(row: Row, name: str) -> str:
    """The text of a response: a string, or one assistant message, by itself or in a list."""
    value = row.values.get(name)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict) and value.get("role", value.get("from")) in (None, "assistant", "gpt"):
        value = value.get("content", value.get("value"))
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        value = "".join(part.get("text") or "" for part in value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is not one non-empty assistant message")
    return value
