"""Preference pairs on disk, in the conversational format that TRL and others read unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.data.tables import Row, read_table
from specs_lightning.errors import DataError
from specs_lightning.groups import PLACE, Prompt
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.pairs import PreferencePair
from specs_lightning.toy import resolve


def load_pairs(path: str, set_aside: SetAside, sides: int = 2) -> list[PreferencePair]:
    """Read rows with `prompt`, `chosen`, `rejected` and, where there are images, `images`; bad ones are set aside.

    Where one of the `sides` is used, `rejected` may be missing (demonstrations), and `completion` may stand for
    `chosen`. A rejected side that is there is read all the same: SFT is then on the rows that DPO would be on.

    `DataError` where the file is missing or unreadable, lacks a column, or no row can be used.
    """
    table = read_table(Path(resolve(path)))
    chosen_column = "completion" if sides == 1 and "chosen" not in table.columns else "chosen"
    needed = {"prompt", chosen_column} if sides == 1 else {"prompt", "chosen", "rejected"}
    if missing := needed - set(table.columns):
        what = "demonstrations need prompt and chosen (or completion)"
        what = what if sides == 1 else "pairs need prompt, chosen and rejected (SFT does without rejected)"
        raise DataError(
            f"{path} has no column {', '.join(sorted(missing))}: {what}, and it has {', '.join(table.columns)}"
        )
    # Gold answers are not needed here: pairs were verified when they were made.
    unused = dict.fromkeys(("answer", "answer_type", "answer_format", "choices", "messages"), "")
    source = PromptSource(path, add_instruction=False, columns={"question": "prompt", **unused})
    prompts = {(p.metadata["source_file"], p.metadata["source_row"]): p for p in _bare(load_prompts(source, set_aside))}
    pairs = []
    for row in table.rows:
        prompt = prompts.get((row.file, row.number))
        if prompt is None:  # set aside already
            continue
        try:
            chosen = _response(row, chosen_column)
            rejected = None if sides == 1 and not row.values.get("rejected") else _response(row, "rejected")
            if rejected is not None and chosen.strip() == rejected.strip():
                raise ValueError("chosen and rejected are the same text")
            pairs.append(PreferencePair(prompt, chosen, rejected, row.values.get("provenance") or {}))
        except ValueError as error:
            set_aside.add(row.file, row.number, str(error))
    if not pairs:
        raise DataError(f"{path} has no usable pair\n{set_aside.summary()}")
    return pairs


def _bare(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    """Without the row's further columns, which hold the responses a second time."""
    return (replace(p, metadata={name: p.metadata[name] for name in PLACE}) for p in prompts)


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
