"""`toy:NAME` stands for what comes with the package or is made on first use; any other path for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs_lightning.toy import resolve, scenes


def test_other_paths_are_left_alone() -> None:
    assert resolve("data/train.jsonl") == "data/train.jsonl"
    assert resolve(Path("toy")) == Path("toy")


def test_the_base_model_comes_with_the_package() -> None:
    assert (Path(resolve("toy:base")) / "model.safetensors").is_file()


def test_a_data_set_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECS_CACHE", str(tmp_path))
    written = []
    monkeypatch.setattr(scenes, "write_data_set", lambda name, file: (written.append(name), file.touch()))
    place = tmp_path / f"toy-v{scenes.VERSION}" / "id.parquet"
    place.parent.mkdir()
    assert resolve("toy:id") == resolve("toy:id") == place
    assert written == ["id"]


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown toy resource 'toy:none'; there are: toy:base, toy:"):
        resolve("toy:none")
