"""Files as lmms-eval's tracker and VLMEvalKit's inference write them, and the questions that they are of."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from specs_lightning.data.sources import PromptSource


def sample(doc_id: int, target: str, said: Any, **values: Any) -> dict[str, Any]:
    """A line of `…_samples_TASK.jsonl`: document and arguments are taken out, single responses out of their lists."""
    row = {"doc_id": doc_id, "target": target, "filtered_resps": said, "doc_hash": "0a1b", "token_counts": [None]}
    return row | {"mathvista_score": {"question_id": doc_id}, "input": "How many?"} | values


def write_samples(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_predictions(file: Path, rows: list[tuple[str, str, str]]) -> Path:
    with file.open("w", newline="") as opened:
        table = csv.writer(opened, delimiter="\t", quoting=csv.QUOTE_ALL)
        table.writerow(["index", "question", "answer", "prediction"])
        table.writerows([index, "How many?", gold, text] for index, gold, text in rows)
    return file


def questions(folder: Path, golds: list[str]) -> PromptSource:
    """In two parquet files of one split."""
    rows = [{"pid": f"q{i}", "question": f"How many {i}?", "answer": gold} for i, gold in enumerate(golds)]
    for part, some in enumerate((rows[:2], rows[2:])):
        (folder / "data").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(some), folder / "data" / f"test-{part:05}-of-00002.parquet")
    return PromptSource(str(folder / "data"), split="test")
