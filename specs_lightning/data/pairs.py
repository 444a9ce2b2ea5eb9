"""Preference pairs on disk, in the conversational format that TRL and others read unchanged."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from specs_lightning.data.columns import AUTO, recognised
from specs_lightning.data.schema_base import Schema
from specs_lightning.data.schemas import find_schema
from specs_lightning.data.sources import PromptSource, load_prompts, table_of
from specs_lightning.data.tables import Row
from specs_lightning.errors import DataError
from specs_lightning.groups import PLACE, Prompt
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.pairs import PreferencePair

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairSource:
    """Preference pairs or demonstrations: where they lie and how to read them."""

    path: str
    """A file or folder, or `hf:OWNER/NAME`, as of prompts."""
    schema: str = AUTO
    """The trainer that the file was made for: trl, llama_factory or ms_swift; generic for `prompt`, `chosen` and
    `rejected`, as `specs distill` writes them; or the class path of your own
    `specs_lightning.data.schemas.Schema`. `auto` tells it by the columns."""
    image_root: str | None = None
    """The folder that image paths start from and must not leave. Default: the folder that the file lies in."""
    split: str | None = None
    """The split to read, of a saved data set or of a folder of parquet files with several."""
    revision: str | None = None
    """Of a data set on the hub: the commit, tag or branch to read; the newest if not given."""

    def __post_init__(self) -> None:
        self.as_prompts(self.schema, ())  # which checks them

    def as_prompts(self, schema: str, unused: Iterable[str]) -> PromptSource:
        """The source of the prompts alone, nothing added to them."""
        columns = dict.fromkeys(unused, "") | ({"question": "prompt"} if schema == "generic" else {})
        return PromptSource(
            self.path,
            schema,
            columns=columns,
            image_root=self.image_root,
            split=self.split,
            revision=self.revision,
            add_instruction=False,
        )


def load_pairs(source: PairSource | str, set_aside: SetAside, sides: int = 2) -> list[PreferencePair]:
    """Read rows with `prompt`, `chosen`, `rejected` and, where there are images, `images`, or those of another schema;
    bad ones are set aside.

    Where one of the `sides` is used, the rejected one may be missing (demonstrations), and `completion` may stand for
    `chosen`. A rejected side that is there is read all the same: SFT is then on the rows that DPO would be on.

    `DataError` where the file is missing or unreadable, lacks a column, or no row can be used.
    """
    if isinstance(source, str):
        source = PairSource(source)
    table = table_of(source.path, source.split, source.revision)
    schema_name = recognised(source.schema, table.columns, pairs=True)
    schema = find_schema(schema_name)
    _check_columns(source.path, schema_name, schema, table.columns, sides)
    # Gold answers are not needed here: pairs were verified when they were made.
    unused = ["answer", "answer_type", "answer_format", "choices", *(["messages"] if schema_name == "generic" else [])]
    loaded = load_prompts(source.as_prompts(schema_name, unused), set_aside)
    prompts = {(p.metadata["source_file"], p.metadata["source_row"]): p for p in _bare(loaded)}
    pairs = []
    for row in table.rows:
        prompt = prompts.get((row.file, row.number))
        if prompt is None:  # set aside already
            continue
        try:
            pairs.append(PreferencePair(prompt, *_sides(schema, row.values, sides), _provenance(row)))
        except ValueError as error:
            set_aside.add(row.file, row.number, str(error))
    if not pairs:
        raise DataError(f"{source.path} has no usable pair\n{set_aside.summary()}")
    if answered := sum(pair.rejected is None and _has_earlier_answer(pair.prompt) for pair in pairs):
        log.warning(
            "%s: earlier answers of %d demonstrations are context, their last is learned", source.path, answered
        )
    return pairs


def _has_earlier_answer(prompt: Prompt) -> bool:
    return any(message["role"] == "assistant" for message in prompt.messages)


def _check_columns(path: str, schema_name: str, schema: Schema, existing: tuple[str, ...], sides: int) -> None:
    """`DataError` where a side has no column."""
    needed = {schema.rejected} if sides == 2 else set()
    if schema_name == "generic":
        needed |= {"prompt", "completion" if sides == 1 and "chosen" not in existing else "chosen"}
    if missing := needed - set(existing):
        demonstrations = "demonstrations need prompt and chosen (or completion)"
        pairs = f"pairs need prompt, chosen and {schema.rejected} (SFT does without {schema.rejected})"
        raise DataError(
            f"{path} has no column {', '.join(sorted(missing))}: {demonstrations if sides == 1 else pairs}, and it has "
            f"{', '.join(existing)}"
        )


def _sides(schema: Schema, values: dict[str, Any], sides: int) -> tuple[str, str | None]:
    """The texts of a row's chosen and rejected response, the latter None of a demonstration."""
    found, other = schema.sides(values)
    chosen = _text("chosen", found)
    if sides == 1 and not other:
        if flag := next((name for name in ("kto_tag", "label") if values.get(name) is False), None):
            raise ValueError(f"answer that is marked as a bad one: its {flag} is false")
        return chosen, None
    rejected = _text("rejected", other)
    if chosen.strip() == rejected.strip():
        raise ValueError("chosen and rejected are the same text")
    return chosen, rejected


def _provenance(row: Row) -> dict[str, Any]:
    found = row.values.get("provenance")
    return found if isinstance(found, dict) else {}


def _bare(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    """Without the row's further columns, which hold the responses a second time."""
    return (replace(p, metadata={name: p.metadata[name] for name in PLACE}) for p in prompts)


def _text(name: str, value: Any) -> str:
    """The text of a response: a string, or one assistant message, by itself or in a list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict) and value.get("role", value.get("from")) in (None, "assistant", "gpt"):
        value = value.get("content", value.get("value"))
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        value = "".join(part.get("text") or "" for part in value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is not one non-empty assistant message")
    return value
