"""Rows are gone through in order, a few at a time, and alike by all processes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from helpers.questions import png
from helpers.two_processes import on_two_processes

from specs_lightning.data import reading, sources
from specs_lightning.data.reading import AHEAD, in_order, read_together
from specs_lightning.data.tables import Row
from specs_lightning.groups import Prompt
from specs_lightning.prompts.images import BadImage, load_image
from specs_lightning.prompts.set_aside import SetAside


def rows(number: int) -> list[Row]:
    return [Row("f", n, {"n": n}) for n in range(1, number + 1)]


def parse(row: Row) -> Prompt:
    if row.values["n"] == 3:
        raise ValueError("three: no row")
    return Prompt(str(row.values["n"]), ())


def test_rows_stay_in_order_whatever_each_takes() -> None:
    def slow_first(place: int, row: Row) -> int:
        time.sleep(0.02 if place == 0 else 0)
        return place

    assert [(row.number, place) for row, place in in_order(rows(20), slow_first, 3)] == [(n + 1, n) for n in range(20)]


def test_only_a_few_rows_are_in_memory() -> None:
    taken = 0

    def counted() -> Iterator[Row]:
        nonlocal taken
        for row in rows(100):
            taken += 1
            yield row

    for done, _ in enumerate(in_order(counted(), lambda place, row: None, 2), 1):
        assert taken - done < 2 * AHEAD


def test_threads_end_with_who_stops_reading() -> None:
    before = threading.active_count()
    read = in_order(rows(100), lambda place, row: None, 2)
    next(read)
    read.close()
    assert threading.active_count() == before


def test_each_row_has_its_prompt_or_the_reason() -> None:
    def examine(prompt: Prompt) -> None:
        if prompt.id == "2":
            raise ValueError("two: bad gold")

    done: list[int] = []
    read = read_together(rows(4), parse, examine, 2, done.append)
    assert [one if isinstance(one, str) else one.id for _, one in read] == ["1", "two: bad gold", "three: no row", "4"]
    assert [(row.number, row.values) for row, _ in read] == [(n, {}) for n in range(1, 5)]
    assert sum(done) == 4


def test_an_error_that_is_no_rows_ends_the_reading() -> None:
    def examine(prompt: Prompt) -> None:
        raise RuntimeError("no math-verify")

    with pytest.raises(RuntimeError, match="no math-verify"):
        read_together(rows(4), parse, examine, 2)


def test_processes_examine_a_share_each_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process found joins what this one did."""
    monkeypatch.setattr(reading, "world_size", lambda: 2)
    monkeypatch.setattr(reading, "rank", lambda: 1)
    others: dict[int, str] = {0: "one: unreadable there", 2: "three: no row"}
    monkeypatch.setattr(reading, "gather", lambda mine: [others, mine])
    examined: list[str] = []

    def examine(prompt: Prompt) -> Any:
        examined.append(prompt.id)
        if prompt.id == "4":
            raise ValueError("four: bad gold")

    read = read_together(rows(6), parse, examine, 1)
    assert examined == ["2", "4", "6"]
    assert [one if isinstance(one, str) else one.id for _, one in read] == [
        "one: unreadable there",
        "2",
        "three: no row",
        "four: bad gold",
        "5",
        "6",
    ]


def load_where_an_image_cannot_be_read(path: str) -> tuple[list[str], list[int], set[str]]:
    """The ids of the prompts, the rows set aside, and the images that were looked at."""
    dist.init_process_group("gloo")
    looked: set[str] = set()

    def load(image: Path) -> Any:
        looked.add(image.name)
        if (image.name, dist.get_rank()) == ("7.png", 1):
            raise BadImage("unreadable image file: on this machine alone")
        return load_image(image)

    sources.load_image = load  # type: ignore[assignment]
    set_aside = SetAside()
    prompts = sources.load_prompts(sources.PromptSource(path), set_aside)
    return [prompt.id for prompt in prompts], [int(row.row) for row in set_aside.rows], looked


@pytest.mark.slow
def test_two_processes_share_the_work_and_read_the_same_prompts(tmp_path: Path) -> None:
    rows = [{"id": f"{n}", "question": "?", "answer": "2", "image": f"{n}.png"} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for row in rows:
        (tmp_path / row["image"]).write_bytes(png())
    path = str(tmp_path / "rows.jsonl")
    (ids, refused, looked), other = on_two_processes(load_where_an_image_cannot_be_read, tmp_path / "log", path)
    assert (ids, refused) == other[:2] == ([f"{n}" for n in range(10) if n != 7], [8])
    assert looked == {f"{n}.png" for n in range(0, 10, 2)} and other[2] == {f"{n}.png" for n in range(1, 10, 2)}
