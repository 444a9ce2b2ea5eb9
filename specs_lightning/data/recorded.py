"""Answers that other harnesses recorded: the samples of lmms-eval and the predictions of VLMEvalKit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs_lightning.data.sources import PromptSource, open_source
from specs_lightning.data.tables import Row, read_table
from specs_lightning.errors import DataError
from specs_lightning.groups import Prompt
from specs_lightning.prompts.set_aside import SetAside

LMMS_EVAL = {"doc_id", "target", "filtered_resps"}
VLM_EVAL_KIT = {"index", "prediction"}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a harness has of one question.

    Args:
        row: the place of the question in its data set, counted from 0; None where it goes by an id.
        id: the question's, "" where it goes by its place.
        texts: the responses, several where it was asked several times.
        gold: its gold answer, by which it is seen whether data sets are the same; None where it is not recorded.
    """

    row: int | None
    id: str
    texts: tuple[str, ...]
    gold: str | None


def read_recorded(file: Path, set_aside: SetAside) -> list[Recorded]:
    """The recorded answers in a file; rows that hold none are set aside.

    lmms-eval writes `…_samples_TASK.jsonl` with `--log_samples`, VLMEvalKit `MODEL_DATASET.tsv` with `PRED_FORMAT=tsv`.

    Raises:
        DataError: it is neither.
    """
    if file.suffix == ".xlsx":
        raise DataError(f"{file} is a spreadsheet: run VLMEvalKit with PRED_FORMAT=tsv, or save it as CSV")
    table = read_table(file)
    columns = set(table.columns)
    if not (columns >= LMMS_EVAL or columns >= VLM_EVAL_KIT):
        raise DataError(
            f"{file} is neither a samples file of lmms-eval (doc_id, target, filtered_resps) nor a prediction table of "
            f"VLMEvalKit (index, prediction); it has {', '.join(table.columns) or 'no columns'}"
        )
    read = _lmms_eval if columns >= LMMS_EVAL else _vlm_eval_kit
    found = []
    for row in table.rows:
        try:
            if row.problem is not None:
                raise ValueError(row.problem)
            found.append(read(row.values))
        except (ValueError, KeyError, TypeError) as error:
            set_aside.add(row.file, row.number, f"no recorded answer: {error}")
    return found


def _lmms_eval(values: dict[str, Any]) -> Recorded:
    """Of responses that it has filtered (tags of reasoning taken off, …), what was there before."""
    said = values["resps"] if values.get("resps") is not None else values["filtered_resps"]
    target = values.get("target")
    return Recorded(int(values["doc_id"]), "", _texts(said), None if target is None else str(target))


def _texts(said: Any) -> tuple[str, ...]:
    if isinstance(said, str):
        return (said,)
    if not isinstance(said, list) or not said:
        raise ValueError(f"a response is no text but {type(said).__name__}")
    return tuple(text for part in said for text in _texts(part))


def _vlm_eval_kit(values: dict[str, Any]) -> Recorded:
    text, gold = values["prediction"], values.get("answer")
    return Recorded(None, str(values["index"]), _texts(text), None if gold in (None, "") else str(gold))


def answered(
    prompts: Sequence[Prompt], recorded: Iterable[Recorded], source: PromptSource
) -> list[tuple[Prompt, Recorded]]:
    """Each prompt of a source with what was recorded of it, in the order of the prompts; those without are left out.

    Raises:
        DataError: no answer is of any of the prompts, or two are of one.
    """
    by_key: dict[int | str, Recorded] = {}
    for one in recorded:
        key = one.id if one.row is None else one.row
        if key in by_key:
            raise DataError(f"two recorded answers are of one question, {key}: give a file of one run")
        by_key[key] = one
    places = dict(_places(source)) if any(isinstance(key, int) for key in by_key) else {}
    keys = [
        places.get((prompt.metadata["source_file"], prompt.metadata["source_row"]), prompt.id) for prompt in prompts
    ]
    found = [(prompt, by_key[key]) for prompt, key in zip(prompts, keys, strict=True) if key in by_key]
    if not found:
        theirs, ours = ", ".join(map(str, list(by_key)[:3])), ", ".join(prompt.id for prompt in prompts[:3])
        raise DataError(
            f"no recorded answer is of a question in {source.path}: they are of {theirs}, …, and its are {ours}, …; "
            "map the column with their ids (`columns: {id: index}`), or give the data set that the harness asked"
        )
    return found


def _places(source: PromptSource) -> Iterator[tuple[tuple[str, int], int]]:
    """Of each row its place in the whole data set, over all its files."""

    def key(row: Row) -> tuple[str, int]:
        return row.file, row.number

    return ((key(row), place) for place, row in enumerate(open_source(source)[0].rows))
