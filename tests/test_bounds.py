"""What is large costs a bounded time and memory: measured here in small, and by benchmarks/bounds.py in full."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.cpu_time import cpu_seconds

from benchmarks.bounds import (
    MIB,
    measured,
    read_prompts,
    read_rows,
    refuse_bomb,
    write_bomb,
    write_parquet,
    write_prompts,
)


def test_an_image_of_400_megapixels_is_refused_in_little_memory(tmp_path: Path) -> None:
    """Decoded it would take 1,200 MB."""
    file = write_bomb(tmp_path / "bomb.png")
    assert file.stat().st_size < MIB
    found = measured(refuse_bomb, file)
    assert "decompression bomb" in found["came_to"] and found["mib"] < 20
    assert cpu_seconds(lambda: refuse_bomb(file)) < 0.5


@pytest.mark.parametrize("in_a_group", [100, 10_000], ids=["groups of rows", "one group"])
def test_rows_of_a_parquet_file_are_read_as_they_are_needed(tmp_path: Path, in_a_group: int) -> None:
    write_parquet(tmp_path / "warm.parquet", 1, in_a_group=100)
    read_rows(tmp_path / "warm.parquet")
    file = write_parquet(tmp_path / "large.parquet", 96, in_a_group)
    assert measured(read_rows, file)["mib"] < 0.5 * file.stat().st_size / MIB


def test_many_prompts_take_memory_by_their_number_alone(tmp_path: Path) -> None:
    """Some kilobytes each, so that the 86,000 of Orsta and ViRL take some hundred megabytes."""
    read_prompts(write_prompts(tmp_path / "few.jsonl", 100))
    found = measured(read_prompts, write_prompts(tmp_path / "many.jsonl", 4000))
    assert found["came_to"] == "4000 prompts" and found["mib"] < 4000 * 8 / 1024
