"""`specs data check`: every row of the data sets of a configuration is read once, counted, and listed if refused.

Memory hardly grows with the number of rows: they are read, looked at and let go a few at a time, and of each some
digests stay, by which rows of the same image or question are found.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from jsonargparse import ArgumentError
from rich import box
from rich.table import Table as RichTable

from specs_lightning.data.frozen import freezing, split
from specs_lightning.data.overlap import Overlap, RowContent, overlaps, places, repeated
from specs_lightning.data.reading import default_workers, in_order
from specs_lightning.data.sources import PromptSource, no_usable_row, open_source
from specs_lightning.data.tables import Row
from specs_lightning.errors import DataError
from specs_lightning.groups import Prompt
from specs_lightning.prompts.encoder import PromptEncoder, SpecialTokenInText
from specs_lightning.prompts.images import BadImage
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.set_aside import SET_ASIDE
from specs_lightning.scoring.comparison import resolve_type
from specs_lightning.scoring.golds import GoldCheck
from specs_lightning.settings.causes import innermost
from specs_lightning.settings.hints import HintingParser
from specs_lightning.settings.yaml_files import read_settings
from specs_lightning.system.files import check_writable, move_over
from specs_lightning.system.progress import progress_bar
from specs_lightning.system.terminal import console, plain, say
from specs_lightning.toy import resolve

SHOWN_ROWS = 20


class Look(NamedTuple):
    """What is seen of a row's images."""

    sizes: list[tuple[int, int]]
    """Widths and heights in pixels."""
    content: RowContent


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
    contents: list[RowContent] = field(default_factory=list)

    def add(self, prompt: Prompt, look: Look, tokens: int | None) -> None:
        sizes = look.sizes
        kind = "none" if prompt.answer is None else resolve_type(prompt.answer, prompt.answer_type, prompt.choices)
        self.usable += 1
        self.answer_types[kind] += 1
        self.images[len(sizes)] += 1
        self.widths += [width for width, _ in sizes]
        self.heights += [height for _, height in sizes]
        self.contents.append(look.content)
        if tokens is not None:
            self.tokens.append(tokens)

    def summary(self) -> dict[str, Any]:
        """The findings with least, median, 95 % quantile and most instead of every number."""
        spreads = {name: spread(getattr(self, name)) for name in ("widths", "heights", "tokens")}
        counts = {name: dict(getattr(self, name).most_common()) for name in ("refused", "answer_types", "images")}
        totals = {"rows": self.rows, "usable": self.usable, "held_out": self.held_out}
        return {**totals, "repeated": repeated(self.contents), **counts, **spreads}


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
            ones each time, and every image with all its rows, of all data sets, to the same folder.
        limit: read only so many usable rows of each data set.
        workers: threads that decode images, and processes that compare gold answers; one a core, and at most
            16, if not given.

    Raises:
        DataError: there is no data set in the configuration, or one cannot be used as a whole.
    """
    if not 0 <= hold_out < 1 or (hold_out and not freeze):
        raise DataError(
            f"hold_out is a share of the rows that are frozen, below 1: it is {hold_out:g}, freeze {freeze}"
        )
    workers = workers or default_workers()
    settings = {Path(file): read_settings(file) for file in config}
    sources = named_sources(settings)
    if not sources:
        raise DataError(f"no data set in {', '.join(config)}: a data set is a mapping with a `path`")
    folder = Path(output)
    model = model or next((found for part in settings.values() if (found := _find_model(part))), None)
    encoder = None if model is None else _encoder(model)
    set_aside = SetAside()
    findings: dict[str, Findings] = {}
    with GoldCheck(workers) as golds, written_at_the_end(folder) as (made, undivided):
        for name, source in sources.items():
            file = (undivided if hold_out else made) / f"{name}.parquet" if freeze else None
            findings[name] = check_source(name, source, golds, encoder, set_aside, file, limit, workers)
        if hold_out:
            _hold_out(hold_out, findings, undivided, made)
        shared = overlaps({name: found.contents for name, found in findings.items()})
        summary = {
            "model": model,
            "sources": {name: found.summary() for name, found in findings.items()},
            "overlaps": [overlap.as_row() for overlap in shared],
        }
        (made / "check.json").write_text(json.dumps(summary, indent=1))
        set_aside.write_to(made)
    if not set_aside.rows:
        (folder / SET_ASIDE.name).unlink(missing_ok=True)
    _tell(findings, shared, set_aside)
    if encoder is None:
        say("no lengths in tokens: give --model")
    _tell_what_is_next(findings, set_aside, folder, freeze, bool(hold_out))


def _tell_what_is_next(
    findings: dict[str, Findings], set_aside: SetAside, folder: Path, freeze: bool, hold_out: bool
) -> None:
    say(f"written to {folder}: check.json{f', {SET_ASIDE.name}' if set_aside.rows else ''}")
    if hold_out:
        usable, held_out = (sum(getattr(f, count) for f in findings.values()) for count in ("usable", "held_out"))
        say(f"{usable - held_out} rows in train, {held_out} held out; no image is in both")
    say(verdict(findings, set_aside))
    if freeze:
        say(f"to train on them: data.train: {{path: {folder / 'train' if hold_out else folder}, schema: frozen}}")


@contextmanager
def written_at_the_end(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A folder whose files are moved to the one that is given at the end, and one that is deleted.

    If the block raises, nothing was written. Both are beside what there is of the folder, on the same disk.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    check_writable(there)
    with TemporaryDirectory(dir=there, prefix=".specs-") as temporary:
        made, rest = Path(temporary, "made"), Path(temporary, "rest")
        made.mkdir()
        rest.mkdir()
        yield made, rest
        for file in [file for file in made.rglob("*") if file.is_file()]:
            place = folder / file.relative_to(made)
            place.parent.mkdir(parents=True, exist_ok=True)
            move_over(file, place)


def check_source(
    name: str,
    source: PromptSource,
    golds: GoldCheck,
    encoder: PromptEncoder | None,
    set_aside: SetAside,
    frozen: Path | None = None,
    limit: int | None = None,
    workers: int | None = None,
) -> Findings:
    """Read a data set row by row, look at its golds and images and count its tokens; usable rows go to `frozen`.

    `DataError` where it is of no use as a whole.
    """
    table, reader = open_source(source)
    limit = min((most for most in (limit, source.limit) if most is not None), default=None)
    found, refused = Findings(), SetAside()
    count = None if encoder is None else _TokenCounter(encoder)

    def look(place: int, row: Row) -> tuple[Prompt, Look] | ValueError:
        try:
            prompt = reader.parse(row)
            pictures = reader.examine(prompt, golds)
        except ValueError as error:
            return error
        return prompt, Look([picture.size for picture in pictures], RowContent.of(prompt, pictures, source.instruction))

    with progress_bar(f"checking {name}", table.size) as advance, ExitStack() as files:
        freeze = files.enter_context(freezing(frozen, reader)) if frozen else None
        looked = files.enter_context(closing(in_order(table.rows, look, workers or default_workers())))
        for row, seen in looked:
            advance(1, f"{len(refused.rows)} set aside" if refused.rows else "")
            found.rows += 1
            try:
                if isinstance(seen, ValueError):
                    raise seen
                prompt, looks = seen
                tokens = None if count is None else count(prompt, looks.sizes)
                reader.claim(prompt.id, row)
                if freeze:
                    freeze(row, prompt)
                found.add(prompt, looks, tokens)
            except ValueError as error:
                refused.add(row.file, row.number, str(error))
                found.refused[str(error).partition(": ")[0]] += 1
            if found.usable == limit:
                break
    set_aside.rows += refused.rows
    if not found.usable:
        raise no_usable_row(source, table, reader, refused)
    return found


def _hold_out(share: float, findings: Mapping[str, Findings], frozen: Path, folder: Path) -> None:
    """Divide the frozen files of all data sets into those of `train` and `held_out`."""
    place = iter(places([content for found in findings.values() for content in found.contents]))
    flags = {name: [next(place) < share for _ in found.contents] for name, found in findings.items()}
    for name, found in findings.items():
        found.held_out = sum(flags[name])
        if not 0 < found.held_out < found.usable:
            raise DataError(
                f"{name}: of {found.usable} rows, hold_out {share:g} takes {found.held_out}: give another share"
            )
    for name, held_out in flags.items():
        file = f"{name}.parquet"
        split(frozen / file, held_out, folder / "train" / file, folder / "held_out" / file)


def verdict(findings: Mapping[str, Findings], set_aside: SetAside) -> str:
    """Whether all rows can be used, and what becomes of the others."""
    if not set_aside.rows:
        return f"all {sum(found.usable for found in findings.values())} rows can be used"
    rows = sum(found.rows for found in findings.values())
    left_out = "cannot be used: a training leaves them out. Mend them, or go on without"
    return f"{len(set_aside.rows)} of {rows} rows {left_out}"


def _tell(findings: Mapping[str, Findings], shared: Sequence[Overlap], set_aside: SetAside) -> None:
    console.print(_table(findings))
    for row in set_aside.rows[:SHOWN_ROWS]:
        say(f"{row.source}, row {row.row}: {row.reason}")
    if (more := len(set_aside.rows) - SHOWN_ROWS) > 0:
        say(f"… and {more} more")
    for name, found in findings.items():
        if times := repeated(found.contents):
            say(f"{name}: {times} rows repeat another (the same images and question)")
    for overlap in shared:
        say(str(overlap))
    if len(findings) > 1 and not shared:
        say("no image and no question is in two of the data sets")


def named_sources(settings: Mapping[Path, Any]) -> dict[str, PromptSource]:
    """The data sets of several files, by the last part of their place (`train`, `id`, …).

    Of different ones that would be called the same, by file and last part (`zero.train`), or by all of both.
    """
    found: dict[tuple[str, str], tuple[PromptSource, list[str]]] = {}
    for file, part in settings.items():
        for place, source in find_sources(part).items():
            place = tuple(part.replace("/", "-") for part in place)  # `formats/boxed`: names become those of files
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
        return PromptEncoder(AutoProcessor.from_pretrained(resolve(model), trust_remote_code=False), image_memory_gib=0)
    except (OSError, ValueError) as error:
        raise DataError(f"the processor of {model} cannot be used ({error}); give another with --model") from error


def _table(findings: Mapping[str, Findings]) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, caption="Spreads: least, median, 95 % quantile, most")
    for title in ("Data set", "Rows", "Usable", "Set aside", "Answers", "Images a row", "Pixels", "Tokens"):
        table.add_column(title, overflow="fold")
    for name, found in findings.items():
        sizes = [f"{label} {_spread(getattr(found, label))}" for label in ("widths", "heights") if found.widths]
        table.add_row(
            plain(name),
            str(found.rows),
            str(found.usable),
            plain(_counts(found.refused)),
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
