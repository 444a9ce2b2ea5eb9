import json
from pathlib import Path

from specs_lightning.prompts.set_aside import SetAside


def three_rows() -> SetAside:
    set_aside = SetAside()
    set_aside.add("a.jsonl", 3, "missing image file: cat.png")
    set_aside.add("a.jsonl", 5, "missing image file: dog.png")
    set_aside.add("b.parquet", "7", "missing question")
    return set_aside


def test_rows_are_counted_by_source_and_kind_of_reason() -> None:
    assert three_rows().counts() == {("a.jsonl", "missing image file"): 2, ("b.parquet", "missing question"): 1}


def test_the_summary_names_every_source_and_kind() -> None:
    summary = three_rows().summary()
    assert summary.startswith("3 rows set aside")
    assert "2 x missing image file (a.jsonl)" in summary
    assert "1 x missing question (b.parquet)" in summary


def test_the_summary_of_nothing_says_so() -> None:
    assert SetAside().summary() == "no rows set aside"


def test_written_rows_read_back(tmp_path: Path) -> None:
    three_rows().write_to(tmp_path / "run")
    lines = (tmp_path / "run" / "set_aside.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"source": "a.jsonl", "row": 3, "reason": "missing image file: cat.png"}
    assert len(lines) == 3


def test_writing_adds_to_a_file_without_doubling_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "set_aside.jsonl"
    three_rows().write_to(tmp_path)
    more = three_rows()
    more.add("c.json", 0, "malformed JSON: a line separator \u2028 inside")
    more.write_to(tmp_path)
    more.write_to(tmp_path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert [row["source"] for row in rows] == ["a.jsonl", "a.jsonl", "b.parquet", "c.json"]
    assert list(tmp_path.iterdir()) == [path], "no temporary file may stay behind"


def test_without_rows_no_file_appears(tmp_path: Path) -> None:
    SetAside().write_to(tmp_path)
    assert not list(tmp_path.iterdir())
