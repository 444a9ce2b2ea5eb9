"""Frozen rows are divided as asked, in order, and an interrupted file is none."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.questions import png

from specs_lightning.data.frozen import FROZEN, ROWS_IN_A_GROUP, freezing, split
from specs_lightning.data.sources import PromptSource, load_prompts, open_source
from specs_lightning.prompts.set_aside import SetAside


def freeze(folder: Path, number: int) -> Path:
    rows = [{"id": str(n), "question": f"{n}?", "answer": str(n)} for n in range(number)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table, reader = open_source(PromptSource(str(folder / "rows.jsonl")))
    with freezing(folder / "frozen.parquet", reader) as add:
        for row in table.rows:
            add(row, reader.parse(row))
    return folder / "frozen.parquet"


def ids(file: Path) -> list[str]:
    return [prompt.id for prompt in load_prompts(PromptSource(str(file), schema="frozen"), SetAside())]


@pytest.mark.parametrize("number", [3, ROWS_IN_A_GROUP, 2 * ROWS_IN_A_GROUP + 1])
def test_rows_go_to_the_side_that_is_said_in_their_order(tmp_path: Path, number: int) -> None:
    whole = freeze(tmp_path, number)
    assert pq.read_schema(whole).names == FROZEN.names
    held_out = [n % 3 == 0 for n in range(number)]
    split(whole, held_out, tmp_path / "train" / "a.parquet", tmp_path / "held_out" / "a.parquet")
    assert ids(tmp_path / "held_out" / "a.parquet") == [str(n) for n in range(number) if n % 3 == 0]
    assert ids(tmp_path / "train" / "a.parquet") == [str(n) for n in range(number) if n % 3]


def test_rows_in_other_spellings_are_the_same_prompts_when_they_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    part = {"type": "image", "image": "a.png"}
    rows = [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "On"}, part]}], "answer": "#### 4"},
        {"question": "<image>?", "image": base64.b64encode(png()).decode(), "answer": "<answer>4</answer>"},
        {"question": "Which?", "choices": ["A. red", "B. blue"], "answer": "B"},
        {"question": "Which?", "choices": ["A. C. elegans", "B. D. rerio"], "answer": r"\boxed{B}"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = PromptSource(str(tmp_path / "rows.jsonl"))
    table, reader = open_source(source)
    with freezing(tmp_path / "frozen.parquet", reader) as add:
        for row in table.rows:
            add(row, reader.parse(row))
    before = load_prompts(source, SetAside())
    after = load_prompts(PromptSource(str(tmp_path / "frozen.parquet"), schema="frozen"), SetAside())
    for name in ("id", "messages", "answer", "answer_type", "choices"):
        assert [getattr(prompt, name) for prompt in after] == [getattr(prompt, name) for prompt in before]
    assert [len(prompt.images) for prompt in after] == [1, 1, 0, 0]
    assert [prompt.answer for prompt in after] == ["4", "4", "B", "B"]


def test_a_file_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "?", "answer": "1"}')
    _, reader = open_source(PromptSource(str(tmp_path / "rows.jsonl")))
    with pytest.raises(KeyboardInterrupt), freezing(tmp_path / "frozen.parquet", reader):
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
