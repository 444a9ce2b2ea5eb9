"""Files of settings that extend others."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs_lightning.errors import SettingsError
from specs_lightning.settings.yaml_files import config_files, kind_of, read_settings


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


def test_a_class_in_anothers_place_keeps_nothing_of_it() -> None:
    Path("a.yaml").write_text(
        "one: {class_path: A, init_args: {x: 1, y: 2}}\ntwo: {class_path: A, init_args: {x: 1}}\n"
    )
    Path("b.yaml").write_text(
        "extends: a.yaml\none: {class_path: B, init_args: {x: null, z: 3}}\ntwo: {init_args: {y: 2}}\n"
    )
    assert read_settings("b.yaml") == {
        "one": {"class_path": "B", "init_args": {"z": 3}},
        "two": {"class_path": "A", "init_args": {"x": 1, "y": 2}},
    }


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["stages", "name", "evaluation.beta"], "run"),
        (["seed_everything", "trainer", "model", "data"], "fit"),
        (["trainer", "model", "data", "base"], "fit"),  # what `specs test` was given
        (["prompts.path", "zero"], "distill"),
        (["model", "vllm"], None),
    ],
)
def test_what_a_file_is_for(names: list[str], kind: str | None) -> None:
    assert kind_of(names) == kind


def test_the_files_of_a_command_line() -> None:
    assert config_files(["fit", "--config=a.yaml", "--x=1", "--config", "b.yaml", "--y"]) == ["a.yaml", "b.yaml"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("extends: missing.yaml\n", r"b\.yaml extends missing\.yaml, which is not there"),
        ("extends: b.yaml\n", r"extend each other: b\.yaml -> b\.yaml"),
        ("x: 1\ny: [\n", r"b\.yaml, line 3: not YAML: "),
        ("- a list\n", r"b\.yaml does not hold settings by name"),
    ],
)
@pytest.mark.bad_input("settings")
def test_what_cannot_be_read_is_named(text: str, problem: str) -> None:
    Path("b.yaml").write_text(text)
    with pytest.raises(SettingsError, match=problem):
        read_settings("b.yaml")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match=r"no such file: c\.yaml"):
        read_settings("c.yaml")
