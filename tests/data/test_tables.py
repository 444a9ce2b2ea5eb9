import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specs_lightning.data.pairs import PairSource
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.data.tables import DataError, read_hub, read_table
from specs_lightning.prompts.set_aside import SetAside


def write_parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def values(path: Path, split: str | None = None) -> list[dict[str, object]]:
    return [row.values for row in read_table(path, split).rows]


def test_rows_of_json_lines_are_numbered_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"b": "\xe2\x80\xa8"}\n')
    table = read_table(path)
    assert table.columns == ("a", "b")
    assert [(row.number, row.values) for row in table.rows] == [(1, {"a": 1}), (2, {"b": "\u2028"})]


def test_a_bad_line_is_found_by_its_row_and_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n\n{"a"\n{"a": 2}')
    _, bad, good = read_table(tmp_path / "a.jsonl").rows
    assert (bad.number, good.number) == (2, 3)
    assert bad.problem is not None and bad.problem.startswith("malformed JSON: line 4: ")


def test_rows_of_a_csv_are_numbered_whatever_lines_they_take(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('q,a\n"one\ntwo\nthree",1\n\nshort\nfour,2\n')
    rows = list(read_table(tmp_path / "a.csv").rows)
    assert [(row.number, row.values.get("a")) for row in rows] == [(1, "1"), (2, None), (3, "2")]
    assert rows[1].problem == "other number of fields than the header: 2 expected"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '[\n {"q": "grö\u2028ß", "a": "1"},\n {"q": "b", "a": "2"}]'),
        ("a.jsonl", '{"q": "grö\u2028ß", "a": "1"}\n\n{"q": "b", "a": "2"}\n'),
        ("a.csv", "q,a\r\ngrö\u2028ß,1\r\nb,2\r\n"),
        ("a.tsv", "q\ta\ngrö\u2028ß\t1\nb\t2\n"),
    ],
)
def test_every_unicode_encoding_is_read(tmp_path: Path, encoding: str, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    table = read_table(tmp_path / name)
    assert (table.columns, table.size) == (("q", "a"), 2)
    assert [row.values for row in table.rows] == [{"q": "grö\u2028ß", "a": "1"}, {"q": "b", "a": "2"}]


def test_a_file_that_is_not_what_its_first_bytes_say_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"a": 1}\n'.encode("utf-16") + b"\x00\xd8\x00")
    with pytest.raises(DataError, match="begins as utf-16, and is not"):
        read_table(tmp_path / "a.jsonl")


def test_a_row_that_python_cannot_hold_is_one_rows_matter(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"\xff\xfe", b"c"]).cast(pa.binary())
    column = pa.StringArray.from_buffers(3, texts.buffers()[1], texts.buffers()[2])
    pq.write_table(pa.table({"q": column}), tmp_path / "a.parquet")
    a, bad, c = read_table(tmp_path / "a.parquet").rows
    assert (a.values, c.values, c.number) == ({"q": "a"}, {"q": "c"}, 2)
    assert bad.problem is not None and bad.problem.startswith("unreadable row: UnicodeDecodeError")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_rows_are_read_one_after_the_other(tmp_path: Path, name: str) -> None:
    """A file of images as text may be larger than the memory."""
    rows, text = 200, "x" * 100_000
    lines = [f"q\n{text}\n", *[f"{text}\n"] * (rows - 1)] if name == "a.csv" else [f'{{"q": "{text}"}}\n'] * rows
    (tmp_path / name).write_text("".join(lines))
    tracemalloc.start()
    try:
        table = read_table(tmp_path / name)
        assert sum(len(row.values["q"]) for row in table.rows) == rows * len(text)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(text) < rows * len(text)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a": ', "malformed JSON"),
        (b'{"a": "\xff"}', "malformed JSON"),
        (b"[" * 100_000, "malformed JSON"),
        (b"[1]", "not a JSON object: a list"),
        (b"null", "not a JSON object: a NoneType"),
    ],
)
def test_a_bad_line_is_a_row_with_a_problem(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b'\n{"a": 1}')
    bad, good = read_table(path).rows
    assert bad.problem is not None
    assert bad.problem.startswith(problem)
    assert (good.problem, good.values) == (None, {"a": 1})


def test_json_arrays_and_json_lines_named_json_are_read(tmp_path: Path) -> None:
    array, lines = tmp_path / "a.json", tmp_path / "b.json"
    array.write_text('\n[{"a": 1},\n 2]')
    lines.write_text('{"a": 1}\n{"a": 2}\n')
    assert [(row.number, row.problem is None) for row in read_table(array).rows] == [(0, True), (1, False)]
    assert values(lines) == [{"a": 1}, {"a": 2}]


def test_a_broken_json_array_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}')
    with pytest.raises(DataError, match=r"a\.json is not valid JSON"):
        read_table(tmp_path / "a.json")


def test_parquet_rows_are_counted_from_zero_in_each_file(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_parquet(tmp_path / f"{name}.parquet", [{"q": f"{name}{i}"} for i in range(100)])
    table = read_table(tmp_path)
    rows = list(table.rows)
    assert table.columns == ("q",)
    assert [(Path(r.file).name, r.number, r.values["q"]) for r in (rows[0], rows[99], rows[100])] == [
        ("a.parquet", 0, "a0"),
        ("a.parquet", 99, "a99"),
        ("b.parquet", 0, "b0"),
    ]


def test_a_folder_with_several_splits_asks_for_one(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [{"q": 1}])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [{"q": 2}])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [{"q": 3}])
    assert values(tmp_path, "train") == [{"q": 1}, {"q": 2}]
    with pytest.raises(DataError, match=r"several splits \('test', 'train'\)"):
        read_table(tmp_path)
    with pytest.raises(DataError, match=r"no split 'dev'; there are: 'test', 'train'"):
        read_table(tmp_path, "dev")


@pytest.mark.parametrize("name", ["train.parquet", "train/part.parquet"])
def test_splits_are_known_by_file_and_by_folder(tmp_path: Path, name: str) -> None:
    write_parquet(tmp_path / name, [{"q": 1}])
    write_parquet(tmp_path / name.replace("train", "test"), [{"q": 2}])
    assert values(tmp_path, "train") == [{"q": 1}]
    with pytest.raises(DataError, match="several splits"):
        read_table(tmp_path)


def test_saved_data_sets_are_read_with_images_undecoded_and_nothing_written(tmp_path: Path) -> None:
    features = datasets.Features({"q": datasets.Value("string"), "image": datasets.Image()})
    rows = [{"q": "a", "image": {"bytes": b"not even an image", "path": None}}]
    saved = datasets.Dataset.from_list(rows, features=features)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(tmp_path / "two")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert values(tmp_path / "one") == values(tmp_path / "two", "train") == rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(DataError, match="several splits"):
        read_table(tmp_path / "two")
    with pytest.raises(DataError, match="no split 'dev'"):
        read_table(tmp_path / "two", "dev")
    with pytest.raises(DataError, match="has no splits"):
        read_table(tmp_path / "one", "train")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"q": os.urandom(1000)} for _ in range(100)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
        read_table(path)
    path.write_bytes(bytes(50_000) + whole[50_000:])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
        list(read_table(path).rows)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match="saved cannot be read"):
        read_table(tmp_path / "saved")


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").touch()
    (tmp_path / "a.jsonl").touch()
    for path, split, problem in (
        (tmp_path / "none.jsonl", None, "no such file"),
        (tmp_path / "a.xlsx", None, "convert it"),
        (tmp_path / "a.jsonl", "train", "only folders have splits"),
        (tmp_path, None, "no parquet files"),
    ):
        with pytest.raises(DataError, match=problem):
            read_table(path, split)


def test_the_hub_is_asked_for_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(*names: str | None, **settings: Any) -> datasets.Dataset:
        asked.append((*names, settings))
        return datasets.Dataset.from_list([{"question": "2+2?"}])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read_hub("org/rows:hard", "train", "1a2b").size == 1
    prompts = load_prompts(PromptSource("hf:org/rows", split="test", revision="v2"), SetAside())
    assert [prompt.id for prompt in prompts] == ["rows:0"]
    assert asked == [
        ("org/rows", "hard", {"split": "train", "revision": "1a2b"}),
        ("org/rows", None, {"split": "test", "revision": "v2"}),
    ]


def test_a_file_has_no_revisions() -> None:
    for source in (PromptSource, PairSource):
        with pytest.raises(ValueError, match=r"revision v2 is of a data set on the hub, and a\.jsonl is none"):
            source("a.jsonl", revision="v2")
