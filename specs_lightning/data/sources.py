"""Data sets to prompts: whatever the columns are called, each row becomes a `Prompt` or is set aside with a reason."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import PIL.Image

from specs_lightning.data.columns import AUTO, USUAL_COLUMNS, find_columns, listed, recognised
from specs_lightning.data.options import lettered_options, named_twice, read_options, without_labels
from specs_lightning.data.reading import default_workers, read_together
from specs_lightning.data.schemas import Schema, find_schema
from specs_lightning.data.tables import Row, Table, read_hub, read_table
from specs_lightning.data.values import (
    image_cells,
    nested,
    numbered_images,
    plain_values,
    read_gold,
    read_image,
    read_precision,
    refuse_other_media,
    refuse_surrogates,
)
from specs_lightning.errors import DataError, check_positive
from specs_lightning.groups import Image, Prompt, image_bytes
from specs_lightning.prompts.images import load_image
from specs_lightning.prompts.looks import LOOKS, alter
from specs_lightning.prompts.messages import (
    PLACEHOLDER,
    Message,
    fill_in,
    lay_out,
    message_images,
    message_turns,
    question_turns,
)
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.scoring.answer_formats import answer_format as format_named
from specs_lightning.scoring.comparison import ANSWER_TYPES, check_gold
from specs_lightning.scoring.golds import GoldCheck
from specs_lightning.system.progress import progress_bar
from specs_lightning.system.ranks import rank
from specs_lightning.toy import resolve

HUB = "hf:"
"""How the `path` of a data set of the hub begins."""
LONG = 1000
"""Rows from which on reading shows a bar."""

BENCHMARK_TASKS = {
    "mathvista": "metadata.task",
    "mathverse": "problem_version",
    "mathvision": "subject",
    "mmmu": "subfield",
    "mega_bench": "task_name",
}
"""The column by which each benchmark divides its questions."""


@dataclass(frozen=True)
class PromptSource:
    """A data set of prompts: where it lies and how to read it."""

    path: str
    """A JSONL, JSON, CSV or parquet file, a folder of parquet files, a data set saved by `datasets`, `toy:NAME`, or
    `hf:OWNER/NAME` (with a configuration `hf:OWNER/NAME:CONFIGURATION`) from the Hugging Face hub."""
    schema: str = AUTO
    """How rows were published: orsta_47k, virl39k, mm_eureka, mathvista, mathverse, mathvision, mmmu, mega_bench,
    frozen (what `specs data check` writes), generic, or the class path of your own
    `specs_lightning.data.schemas.Schema`; or the trainer that the file was made for: verl, easyr1, trl, llama_factory,
    ms_swift. With `auto` it is that trainer where the columns tell, and generic elsewhere."""
    answer_format: str = "think_answer"
    """The format in which prompts ask for their answer, for rows that name none."""
    answer_type: str = "auto"
    """How answers are compared, for rows that do not say. With `auto`, rows with choices are multiple choice."""
    columns: dict[str, str] = field(default_factory=dict)
    """The file's name for any of id, question, answer, answer_type, answer_format, choices, images, messages, precision
    (the decimal places that count) and unit (the answer's), where it is not a usual one. A dot leads into a nested
    column (`reward_model.answer`); an empty name ignores the column."""
    image_root: str | None = None
    """The folder that image paths start from and must not leave. Default: the folder that the file lies in."""
    limit: int | None = None
    """Take the first usable rows only, at most this many."""
    split: str | None = None
    """The split to read, of a saved data set or of a folder of parquet files with several."""
    system: str | None = None
    """A system message to put before every prompt."""
    add_instruction: bool = True
    """End each prompt with how to answer. Switch it off where the questions say so themselves."""
    instruction: str | None = None
    """How to answer, in words of your own, in place of the format's."""
    looks: str | None = None
    """Show the images as training did not, for an evaluation out of distribution by looks: blurred, coarse, dim, grey,
    inverted or noisy. They are kept in memory."""
    template: str | None = None
    """A text file that lays out each prompt: `{question}` and, a line each, `{choices}`. Without one the question
    comes first, and the choices follow."""
    benchmark: str | None = None
    """Score evaluation answers by the rule of this benchmark, and tell its tasks apart: mathvista, mathverse,
    mathvision, mmmu or mega_bench."""
    revision: str | None = None
    """Of a data set on the hub: the commit, tag or branch to read; the newest if not given."""

    def __post_init__(self) -> None:
        format_named(self.answer_format)
        if self.schema != AUTO:
            find_schema(self.schema)
        if self.benchmark is not None and self.benchmark not in BENCHMARK_TASKS:
            raise ValueError(f"unknown benchmark {self.benchmark!r}; there are: {', '.join(BENCHMARK_TASKS)}")
        if unknown := set(self.columns) - set(USUAL_COLUMNS):
            raise ValueError(f"columns maps {', '.join(sorted(unknown))}; it can map {', '.join(USUAL_COLUMNS)}")
        if self.looks is not None and self.looks not in LOOKS:
            raise ValueError(f"unknown looks {self.looks!r}; there are: {', '.join(LOOKS)}")
        check_positive(limit=self.limit)
        if not self.path:
            raise ValueError("path is empty: name a file, a folder, toy:NAME or hf:OWNER/NAME")
        if self.revision is not None and not self.path.startswith(HUB):
            raise ValueError(
                f"revision {self.revision} is of a data set on the hub, and {self.path} is none: leave it out"
            )


def load_prompts(source: PromptSource, set_aside: SetAside, thorough: bool = True) -> list[Prompt]:
    """Read a data set; rows that cannot be used go to `set_aside` by file and number.

    With `thorough` every image is decoded once and every gold answer scored against itself, so that a bad one shows
    now and not in the middle of a run. All processes of a training must call it alike: they share that work, and each
    gets the same prompts. `DataError` where the file is missing or unreadable, a mapped column does not exist, or no
    row can be used.
    """
    if source.answer_type not in ANSWER_TYPES:
        raise DataError(f"unknown answer type {source.answer_type!r}; there are: {', '.join(ANSWER_TYPES)}")
    table, reader = open_source(source)
    refused = SetAside()
    prompts: list[Prompt] = []
    workers = default_workers()
    bar = progress_bar(f"reading {source.path}", table.size) if table.size >= LONG and rank() == 0 else nullcontext()
    with GoldCheck(workers) as golds, bar as advance:

        def examine(prompt: Prompt) -> None:
            if thorough:
                reader.examine(prompt, golds)

        while len(prompts) != source.limit:
            rows = islice(table.rows, None if source.limit is None else source.limit - len(prompts))
            read = read_together(rows, reader.parse, examine, workers, advance)
            for row, prompt in read:
                try:
                    if isinstance(prompt, str):
                        raise ValueError(prompt)
                    reader.claim(prompt.id, row)
                    prompts.append(prompt)
                except ValueError as error:
                    refused.add(row.file, row.number, str(error))
            if not read:
                break
    set_aside.rows += refused.rows
    if not prompts:
        raise no_usable_row(source, table, reader, refused)
    return prompts


def open_source(source: PromptSource) -> tuple[Table, RowReader]:
    """The rows of a data set, and what makes prompts of them; `DataError` as of `load_prompts`."""
    path = Path(resolve(source.path))
    split = source.split or re.split(r"[-.]", path.name)[0]  # as far as the settings or the file's name tell
    if source.schema != AUTO and split in find_schema(source.schema).forbidden_splits:
        raise DataError(f"{source.path}: the split {split!r} of {source.schema} holds other data; use split: train")
    table = table_of(source.path, source.split, source.revision)
    default_root = Path.cwd() if source.path.startswith(HUB) else path if path.is_dir() else path.parent
    root = Path(source.image_root) if source.image_root is not None else default_root
    if not root.is_dir():
        raise DataError(f"image_root {root} is no folder")
    source = replace(source, schema=recognised(source.schema, table.columns))
    columns = find_columns(source.columns, source.schema, path, table.columns)
    return table, RowReader(source, find_schema(source.schema), columns, root, _read_template(source.template))


def table_of(path: str, split: str | None, revision: str | None = None) -> Table:
    """The rows behind a `path` setting; `DataError` as of `load_prompts`."""
    if path.startswith(HUB):
        return read_hub(path.removeprefix(HUB), split, revision)
    return read_table(Path(resolve(path)), split)


def _read_template(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        template = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"template {file} cannot be read: {error}") from error
    if "{question}" not in template:
        raise DataError(f"template {file} has no {{question}}")
    return template


def no_usable_row(source: PromptSource, table: Table, reader: RowReader, refused: SetAside) -> DataError:
    return DataError(
        f"{source.path} has no usable row: {refused.summary()}\nIts columns are {listed(table.columns)}; map others "
        f"with `columns`. Images are looked for in {reader.root}; choose another folder with `image_root`."
    )


@dataclass
class RowReader:
    """Turns rows into prompts, and knows the ids that it has given. Every `ValueError` says what is wrong with a row,
    as `kind: details`."""

    source: PromptSource
    schema: Schema
    columns: dict[str, str]
    root: Path
    template: str | None = None
    places: dict[str, str] = field(default_factory=dict)

    def claim(self, id: str, row: Row) -> None:
        """Give an id to a row that no row before it had."""
        if id in self.places:
            raise ValueError(f"duplicate id: {id} (first at {self.places[id]})")
        self.places[id] = f"{row.number} in {row.file}"

    def frozen(self, row: Row, prompt: Prompt) -> dict[str, Any]:
        """A row as `data.frozen.FROZEN` has it: what is needed to read the same prompt again, the images as bytes."""
        row = self._as_ours(row)
        source = replace(self.source, add_instruction=False)
        turns = self._turns(row, prompt.choices, prompt.answer_format, source)
        values, single = self._image_values(row)
        images = [self._image(value) for value in values]
        return {
            "id": prompt.id,
            "messages": turns,
            "images": [{"bytes": image_bytes(image), "path": None} for image in images],
            "single_image": single and bool(images),
            "answer": prompt.answer,
            "answer_type": prompt.answer_type,
            "answer_format": self._name(row, "answer_format"),  # None: whoever reads it chooses
            "choices": prompt.choices,
            "precision": prompt.precision,
            "metadata": json.dumps(prompt.metadata),
        }

    def parse(self, row: Row) -> Prompt:
        """The prompt of a row, whose id another may have, with images that are there; usable from several threads."""
        row = self._as_ours(row)
        id = self._id(row)
        answer_format = self._name(row, "answer_format") or self.source.answer_format
        choices = self._choices(row)
        turns = self._turns(row, choices, answer_format, self.source)
        answer, answer_type = self._answer(row, choices)
        values, single = self._image_values(row)
        if not values and any(PLACEHOLDER.search(turn["content"]) for turn in turns):
            raise ValueError("missing image: the text refers to one, and the row has none")
        if not values:
            refuse_other_media(row.values)
        messages, image_order = lay_out(turns, len(values), sheet=single)
        images = [self._image(value) for value in values]
        return Prompt(
            id=id,
            messages=messages,
            images=tuple(images[index] for index in image_order),
            answer=answer,
            answer_type=answer_type,
            answer_format=answer_format,
            choices=choices,
            precision=read_precision(self._value(row, "precision")),
            metadata=self._metadata(row),
        )

    def examine(self, prompt: Prompt, golds: GoldCheck) -> list[PIL.Image.Image]:
        """What costs time: the gold answer is scored against itself, and the images are decoded, which are returned."""
        if cause := golds.cause(prompt):
            raise ValueError(f"unusable gold answer: {cause}")
        return [load_image(image) for image in prompt.images]

    def _as_ours(self, row: Row) -> Row:
        if row.problem is not None:
            raise ValueError(row.problem)
        refuse_surrogates(row.values)
        try:
            return replace(row, values=self.schema.read(row.values))
        except KeyError as error:
            raise ValueError(f"missing column: {error.args[0]}") from error
        except ValueError:
            raise
        except Exception as error:  # values of other kinds than the schema reads
            raise ValueError(f"not as {self.source.schema} has it: {type(error).__name__}: {error}") from error

    @property
    def _keeps_its_form(self) -> bool:
        """Whether golds and options are as they must be: a benchmark's rule reads them, or they were frozen."""
        return self.source.benchmark is not None or self.source.schema == "frozen"

    def _value(self, row: Row, name: str) -> Any:
        """What the row holds for one of our names; `None` where it holds nothing."""
        column = self.columns.get(name, "")
        if column in row.values:
            return row.values[column]
        return nested(row.values, column)

    def _name(self, row: Row, name: str) -> str | None:
        """A value that names something; `None` where the row has none."""
        value = self._value(row, name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} is not text: {type(value).__name__}")
        return value or None

    def _id(self, row: Row) -> str:
        value = self._value(row, "id")
        if value is None or value == "":
            value = f"{Path(row.file).stem}:{row.number}"
        if not isinstance(value, str | int | float):
            raise ValueError(f"id is not text or a number: {type(value).__name__}")
        return str(value)

    def _choices(self, row: Row) -> tuple[str, ...]:
        """The options, without labels of their own."""
        lettered = "choices" not in self.columns and "choices" not in self.source.columns
        lettered = lettered and {"A", "B"} <= row.values.keys()
        choices = lettered_options(row.values) if lettered else read_options(self._value(row, "choices"))
        return choices if self._keeps_its_form else without_labels(choices)

    def _messages(self, row: Row) -> Any:
        """The row's chat messages, which may stand for its question; `None` where it has a text."""
        messages, question = self._value(row, "messages"), self._value(row, "question")
        if self.columns.get("messages") == "conversations" and isinstance(question, str) and question.strip():
            return None  # a question and, beside it, a conversation that may hold the answer, too
        return question if messages is None and isinstance(question, list) else messages

    def _turns(self, row: Row, choices: tuple[str, ...], answer_format: str, source: PromptSource) -> list[Message]:
        messages, question = self._messages(row), self._value(row, "question")
        instruction = source.instruction or format_named(answer_format).instruction
        settings = (source.system, instruction if source.add_instruction else None)
        if messages is not None:
            return message_turns(messages, *settings)
        if question is not None and not isinstance(question, str):
            raise ValueError(f"question is not text: {type(question).__name__}")
        if question is None or not question.strip():
            raise ValueError("missing question")
        if self.template is not None:
            return message_turns([{"role": "user", "content": fill_in(self.template, question, choices)}], *settings)
        return question_turns(question, choices, *settings)

    def _answer(self, row: Row, choices: tuple[str, ...]) -> tuple[str | None, str]:
        """The gold answer and its type; no answer where the file has no column of them."""
        answer_type = self._name(row, "answer_type") or self.source.answer_type
        if answer_type not in ANSWER_TYPES:
            raise ValueError(f"unknown answer type: {answer_type} (there are: {', '.join(ANSWER_TYPES)})")
        if choices and answer_type == "auto":
            answer_type = "choice"
        if "answer" not in self.columns:
            return None, answer_type
        kept = self._keeps_its_form
        answer = read_gold(self._value(row, "answer"), self._name(row, "unit"), bare=not kept)
        if problem := check_gold(answer, answer_type, choices):
            raise ValueError(f"unusable gold answer: {problem}")
        if not kept and (twice := named_twice(answer, choices)):
            raise ValueError(f"gold answer that names two options: {twice}; give the option's text")
        return answer, answer_type

    def _image_values(self, row: Row) -> tuple[list[Any], bool]:
        """The row's images as the file holds them, and whether it has room for a single one only."""
        messages = self._messages(row)
        within = message_images(messages) if isinstance(messages, list) else []
        if "images" in self.columns:
            values, single = image_cells(self._value(row, "images"))
        else:
            values, single = [] if "images" in self.source.columns else numbered_images(row.values), False
        if within and values and values != within:
            raise ValueError("images given twice: some in the messages and others in a column; leave one of them out")
        return (within, False) if within else (values, single)

    def _image(self, value: Any) -> Image:
        image = read_image(value, self.root)
        return image if self.source.looks is None else alter(image, self.source.looks)

    def _metadata(self, row: Row) -> dict[str, Any]:
        """The row's place, and its values that have no other use: texts, numbers, and lists and tables of these."""
        used = set(self.columns.values())
        rest = {name: value for name, value in plain_values(row.values).items() if name not in used}
        if self.source.benchmark is not None:
            rest["benchmark"] = self.source.benchmark
            rest["task"] = str(nested(row.values, BENCHMARK_TASKS[self.source.benchmark]))
        return {**rest, "source_file": row.file, "source_row": row.number}
