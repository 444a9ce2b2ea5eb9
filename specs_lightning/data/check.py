"""`specs data check`: every row of the data sets of a configuration is read once, counted, and listed if refused.

Memory does not grow with the number of rows: they are read, looked at and let go a few at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jsonargparse import ArgumentError
from rich import box
from rich.table import Table as RichTable

from specs_lightning.data.sources import PromptSource, RowReader, no_usable_row, open_source
from specs_lightning.data.tables import Row
from specs_lightning.errors import DataError
from specs_lightning.groups import Prompt, image_bytes
from specs_lightning.prompts.encoder import PromptEncoder, SpecialTokenInText
from specs_lightning.prompts.images import BadImage, load_image
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.set_aside import SET_ASIDE
from specs_lightning.scoring.comparison import resolve_type
from specs_lightning.settings.causes import innermost
from specs_lightning.settings.hints import HintingParser
from specs_lightning.settings.yaml_files import read_settings
from specs_lightning.system.files import atomic
from specs_lightning.system.progress import console, progress_bar
from specs_lightning.toy import resolve

ROWS_IN_A_GROUP = 128
SHOWN_ROWS = 20
_PARTS = pa.struct([("role", pa.string()), ("content", pa.string())])
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FROZEN = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "answer", "answer_type", "answer_format", "metadata")),
        ("messages", pa.list_(_PARTS)),
        ("images", pa.list_(_IMAGE)),
        ("single_image", pa.bool_()),
        ("choices", pa.list_(pa.string())),
        ("precision", pa.int64()),
    ]
)
"""The columns of a frozen file, which the schema `frozen` reads."""


@dataclass
class Findings:
    """What a data set holds: rows that were read, those that became prompts (of which some are not to be trained on),
    and the others by the kind of reason.

    The usable ones are counted by how their answers will be compared and by their number of images, whose sizes are in
    pixels; `tokens` are the length of each prompt, image tokens included, and empty without a model.
    """

    rows: int = 0
    usable: int = 0
    held_out: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    answer_types: Counter[str] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def add(self, prompt: Prompt, sizes: Sequence[tuple[int, int]], tokens: int | None) -> None:
        kind = "none" if prompt.answer is None else resolve_type(prompt.answer, prompt.answer_type, prompt.choices)
        self.usable += 1
        self.answer_types[kind] += 1
        self.images[len(sizes)] += 1
        self.widths += [width for width, _ in sizes]
        self.heights += [height for _, height in sizes]
        if tokens is not None:
            self.tokens.append(tokens)

    def summary(self) -> dict[str, Any]:
        """The findings with least, median, 95 % quantile and most instead of every number."""
        spreads = {name: spread(getattr(self, name)) for name in ("widths", "heights", "tokens")}
        counts = {name: dict(getattr(self, name).most_common()) for name in ("refused", "answer_types", "images")}
        return {"rows": self.rows, "usable": self.usable, "held_out": self.held_out, **counts, **spreads}


def check(
    config: list[str],
    model: str | None = None,
    output: str = "runs/data-check",
    freeze: bool = False,
    hold_out: float = 0.0,
    limit: int | None = None,
    workers: int | None = None,
) -> None:
    """Read every row of a configuration's data sets once, and say what is in them and which cannot be used.

    Args:
        config: a configuration of `specs fit`, `distill`, `run` or `test`, or any YAML file with data sets in it; may
            be given several times. A data set is a mapping with a `path`.
        model: whose tokenizer counts tokens; the one that the configuration names, if not given.
        output: the folder for `check.json`, `set_aside.jsonl` and frozen files.
        freeze: also write the usable rows, images included, to one parquet file a data set, for `schema: frozen`.
        hold_out: with `freeze`, this share of the rows goes to the folder `held_out`, the others to `train`: the same
            ones each time, and all that show the same image to the same folder.
        limit: read only so many usable rows of each data set.
        workers: threads that decode images; one a core if not given.

    Raises:
        DataError: there is no data set in the configuration, or one cannot be used as a whole.
    """
    if not 0 <= hold_out < 1 or (hold_out and not freeze):
        raise DataError(
            f"hold_out is a share of the rows that are frozen, below 1: it is {hold_out:g}, freeze {freeze}"
        )
    settings = {Path(file): read_settings(file) for file in config}
    sources = named_sources(settings)
    if not sources:
        raise DataError(f"no data set in {', '.join(config)}: a data set is a mapping with a `path`")
    model = model or next((found for part in settings.values() if (found := _find_model(part))), None)
    encoder = None if model is None else _encoder(model)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SET_ASIDE.name).unlink(missing_ok=True)
    set_aside = SetAside()
    findings: dict[str, Findings] = {}
    for name, source in sources.items():
        parts = (folder / "train", folder / "held_out") if hold_out else (folder,)
        frozen = [part / f"{name}.parquet" for part in parts] if freeze else []
        findings[name] = check_source(name, source, encoder, set_aside, frozen, hold_out, limit, workers)
    set_aside.write_to(folder)
    summary = {"model": model, "sources": {name: found.summary() for name, found in findings.items()}}
    (folder / "check.json").write_text(json.dumps(summary, indent=1))
    console.print(_table(findings))
    for row in set_aside.rows[:SHOWN_ROWS]:
        console.print(f"{row.source}, row {row.row}: {row.reason}", markup=False, highlight=False)
    if (more := len(set_aside.rows) - SHOWN_ROWS) > 0:
        console.print(f"… and {more} more")
    if encoder is None:
        console.print("no lengths in tokens: give --model")
    console.print(f"written to {folder}: check.json{f', {SET_ASIDE.name}' if set_aside.rows else ''}")
    if hold_out:
        usable, held_out = (sum(getattr(f, count) for f in findings.values()) for count in ("usable", "held_out"))
        console.print(f"{usable - held_out} rows in train, {held_out} held out")


def check_source(
    name: str,
    source: PromptSource,
    encoder: PromptEncoder | None,
    set_aside: SetAside,
    frozen: Sequence[Path] = (),
    hold_out: float = 0.0,
    limit: int | None = None,
    workers: int | None = None,
) -> Findings:
    """Read a data set row by row, decode its images and count its tokens; `DataError` where it is of no use as a whole.

    What is usable is written to the file `frozen`; of two files, the second takes the share `hold_out`.
    """
    table, reader = open_source(source, check_images=False)
    limit = min((most for most in (limit, source.limit) if most is not None), default=None)
    found, refused = Findings(), SetAside()
    count = None if encoder is None else _TokenCounter(encoder)
    with (
        ThreadPoolExecutor(workers or os.cpu_count() or 1) as threads,
        progress_bar(f"checking {name}", table.size) as advance,
        ExitStack() as files,
    ):
        freezers = [files.enter_context(_freezing(file, reader)) for file in frozen]
        for row, looked_at in _in_order(threads, reader, table.rows, 4 * (workers or os.cpu_count() or 1)):
            advance(1, f"{len(refused.rows)} set aside" if refused.rows else "")
            found.rows += 1
            try:
                prompt, sizes = looked_at.result()
                reader.claim(prompt.id, row)
                found.add(prompt, sizes, None if count is None else count(prompt, sizes))
                held_out = hold_out > 0 and place_of(prompt) < hold_out
                found.held_out += held_out
                if freezers:
                    freezers[held_out](row, prompt)
            except ValueError as error:
                refused.add(row.file, row.number, str(error))
                found.refused[str(error).partition(": ")[0]] += 1
            if found.usable == limit:
                break
        threads.shutdown(cancel_futures=True)
    set_aside.rows += refused.rows
    if not found.usable:
        raise no_usable_row(source, table, reader, refused)
    if hold_out and not 0 < found.held_out < found.usable:
        raise DataError(
            f"{source.path}: of {found.usable} rows, hold_out {hold_out:g} takes {found.held_out}: give another share"
        )
    return found


def place_of(prompt: Prompt) -> float:
    """Where a prompt stands between 0 and 1, by its images or, without any, its id: anywhere, and always the same."""
    digest = hashlib.sha256()
    for image in prompt.images or (prompt.id.encode(),):
        digest.update(image_bytes(image))
    return int.from_bytes(digest.digest()[:8]) / 2**64


def named_sources(settings: Mapping[Path, Any]) -> dict[str, PromptSource]:
    """The data sets of several files, by the last part of their place (`train`, `id`, …).

    Of different ones that would be called the same, by file and last part (`zero.train`), or by all of both.
    """
    found: dict[tuple[str, str], tuple[PromptSource, list[str]]] = {}
    for file, part in settings.items():
        for place, source in find_sources(part).items():
            whole = ".".join((*file.with_suffix("").parts, *place)).strip(os.sep + ".")
            names = [place[-1], f"{file.stem}.{place[-1]}", whole]
            found.setdefault((place[-1], repr(source)), (source, names))
    called = Counter(name for _, names in found.values() for name in names)
    return {next((n for n in names if called[n] == 1), names[-1]): source for source, names in found.values()}


def find_sources(settings: Any, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], PromptSource]:
    """The data sets in a configuration, by their place in it."""
    if isinstance(settings, list):
        settings = {str(number): item for number, item in enumerate(settings)}
    if not isinstance(settings, dict):
        return {}
    if isinstance(settings.get("path"), str) and "class_path" not in settings:
        return {place or ("data",): _as_source(".".join(place), settings)}
    inner = [find_sources(item, (*place, str(key))) for key, item in settings.items()]
    return {place: source for sources in inner for place, source in sources.items()}


def spread(values: Sequence[int]) -> dict[str, int] | None:
    """The least, the median, the 95 % quantile and the most of some numbers."""
    if not values:
        return None
    ordered = sorted(values)
    at = {"least": 0.0, "median": 0.5, "95 %": 0.95, "most": 1.0}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in at.items()}


def _in_order(
    threads: ThreadPoolExecutor, reader: RowReader, rows: Iterator[Row], ahead: int
) -> Iterator[tuple[Row, Future[tuple[Prompt, list[tuple[int, int]]]]]]:
    """Each row with what a thread makes of it, in the order of the file; at most `ahead` of them are in memory."""
    waiting: deque[tuple[Row, Future[tuple[Prompt, list[tuple[int, int]]]]]] = deque()
    for row in rows:
        waiting.append((row, threads.submit(_look_at, reader, row)))
        if len(waiting) == ahead:
            yield waiting.popleft()
    yield from waiting


def _look_at(reader: RowReader, row: Row) -> tuple[Prompt, list[tuple[int, int]]]:
    """A row's prompt, and the width and height of each image."""
    prompt = reader.parse(row)
    return prompt, [load_image(image).size for image in prompt.images]


class _TokenCounter:
    """Counts tokens without the images' tensors where the model's family can, checked on the first prompt."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder = encoder
        self.by_size: bool | None = None

    def __call__(self, prompt: Prompt, sizes: Sequence[tuple[int, int]]) -> int:
        if not sizes or self.by_size:
            return self.encoder.length(prompt, sizes)
        tokens = len(self.encoder.encode(prompt).input_ids)
        if self.by_size is None:
            try:
                self.by_size = self.encoder.length(prompt, sizes) == tokens
            except (AttributeError, NotImplementedError, SpecialTokenInText, BadImage):
                self.by_size = False
        return tokens


@contextmanager
def _freezing(file: Path, reader: RowReader) -> Iterator[Callable[[Row, Prompt], None]]:
    """What adds a usable row to a parquet file that appears whole or not at all."""
    rows: list[dict[str, Any]] = []

    def add(row: Row, prompt: Prompt) -> None:
        rows.append(reader.frozen(row, prompt))
        if len(rows) == ROWS_IN_A_GROUP:
            flush()

    def flush() -> None:
        writer.write_table(pa.Table.from_pylist(rows, FROZEN))
        rows.clear()

    with atomic(file) as partial, pq.ParquetWriter(partial, FROZEN) as writer:
        yield add
        flush()


def _as_source(name: str, settings: dict[str, Any]) -> PromptSource:
    """A data set's settings, checked as `specs fit` checks them."""
    known = [setting.name for setting in fields(PromptSource)]
    if wrong := next((key for key in settings if key not in known), None):
        raise DataError(f"{name}: a data set has no setting {wrong!r}; there are: {', '.join(known)}")
    parser = HintingParser(exit_on_error=False)
    parser.add_class_arguments(PromptSource)
    try:
        return PromptSource(**vars(parser.parse_object(settings)))
    except (ArgumentError, ValueError) as error:
        raise DataError(f"{name}: {innermost(str(error))}") from error


def _find_model(settings: Any) -> str | None:
    """The model that a configuration names first."""
    if not isinstance(settings, dict):
        return None
    for key in ("model", "zero", "base"):
        if isinstance(model := settings.get(key), str):
            return model
    return next((found for item in settings.values() if (found := _find_model(item))), None)


def _encoder(model: str) -> PromptEncoder:
    from transformers import AutoProcessor

    try:
        return PromptEncoder(AutoProcessor.from_pretrained(resolve(model)), image_memory_gib=0)
    except (OSError, ValueError) as error:
        raise DataError(f"the tokenizer of {model} cannot be loaded ({error}); give another with --model") from error


def _table(findings: dict[str, Findings]) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, caption="Spreads: least, median, 95 % quantile, most")
    for title in ("Data set", "Rows", "Usable", "Set aside", "Answers", "Images a row", "Pixels", "Tokens"):
        table.add_column(title, overflow="fold")
    for name, found in findings.items():
        sizes = [f"{label} {_spread(getattr(found, label))}" for label in ("widths", "heights") if found.widths]
        table.add_row(
            name,
            str(found.rows),
            str(found.usable),
            _counts(found.refused),
            _counts(found.answer_types),
            _counts(found.images),
            "\n".join(sizes),
            _spread(found.tokens),
        )
    return table


def _counts(counts: Counter[Any]) -> str:
    return "\n".join(f"{kind}: {number}" for kind, number in counts.most_common())


def _spread(values: Sequence[int]) -> str:
    found = spread(values)
    return "–" if found is None else " · ".join(map(str, found.values()))
