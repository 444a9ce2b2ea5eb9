"""Files of settings that extend others."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs_lightning.errors import SettingsError
from specs_lightning.settings.files import read_settings


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("name: a\nstages:\n  one: {rate: 1, sets: [1, 2]}\n  two: {rate: 2}\n")


def test_dictionaries_are_merged_other_values_replaced_and_null_removes() -> None:
    Path("b.yaml").write_text(
        "extends: a.yaml\nname: b\nstages:\n  one: {sets: [3]}\n  two: null\n  three: {rate: 3}\n"
    )
    assert read_settings("b.yaml") == {
        "name": "b",
        "stages": {"one": {"rate": 1, "sets": [3]}, "three": {"rate": 3}},
    }
    assert read_settings("a.yaml")["stages"]["two"] == {"rate": 2}


def test_a_chain_of_files() -> None:
    Path("b.yaml").write_text("extends: a.yaml\nname: b\n")
    Path("c.yaml").write_text("extends: b.yaml\nstages: {one: {rate: 7}}\n")
    assert read_settings("c.yaml") == {
        "name": "b",
        "stages": {"one": {"rate": 7, "sets": [1, 2]}, "two": {"rate": 2}},
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("extends: missing.yaml\n", r"b\.yaml extends missing\.yaml, which is not there"),
        ("extends: b.yaml\n", r"extend each other: b\.yaml -> b\.yaml"),
        ("- a list\n", r"b\.yaml does not hold settings by name"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, problem: str) -> None:
    Path("b.yaml").write_text(text)
    with pytest.raises(SettingsError, match=problem):
        read_settings("b.yaml")
