"""A thing is known by its content: not by its name, its place or its time."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from specs_lightning.system import digests
from specs_lightning.system.digests import content_digest, fingerprint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"\0" * 1000)
    (folder / "part" / "config.json").write_text("{}")
    return folder


def test_every_byte_and_every_name_counts(model: Path) -> None:
    before = content_digest(model)
    assert content_digest(model) == before
    (model / "model.safetensors").write_bytes(b"\0" * 500 + b"\1" + b"\0" * 499)
    changed = content_digest(model)
    (model / "part" / "config.json").rename(model / "part" / "other.json")
    assert len({before, changed, content_digest(model)}) == 3


def test_a_copy_is_the_same_under_any_name_and_at_any_time(model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "elsewhere" / "renamed"))
    os.utime(copy / "model.safetensors", ns=(0, 0))
    assert content_digest(copy) == content_digest(model)
    assert content_digest(copy / "model.safetensors") == content_digest(model / "model.safetensors")


@pytest.mark.parametrize("beside", [".git/HEAD", ".cache/huggingface/download/model.safetensors.metadata"])
def test_what_tools_keep_beside_it_does_not_count(model: Path, beside: str) -> None:
    before = content_digest(model)
    (model / beside).parent.mkdir(parents=True)
    (model / beside).write_text(str(time.time()))
    assert content_digest(model) == before


class TestOnceAProcess:
    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The files that were read."""
        found: list[str] = []
        original = digests.hashlib.file_digest

        def listened(file: Any, name: str) -> Any:
            found.append(Path(file.name).name)
            return original(file, name)

        monkeypatch.setattr(digests.hashlib, "file_digest", listened)
        return found

    def test_a_settled_file_is_read_once(self, model: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(digests, "SETTLED_NS", -1)
        first = content_digest(model)
        assert content_digest(model) == first and sorted(read) == ["config.json", "model.safetensors"]

    def test_one_that_has_just_changed_is_read_again(self, model: Path, read: list[str]) -> None:
        """Within one tick of the clock, nothing but its content tells."""
        content_digest(model)
        content_digest(model)
        assert len(read) == 4

    def test_other_content_with_the_same_size_and_time_is_another(
        self, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weights = model / "model.safetensors"
        monkeypatch.setattr(digests, "SETTLED_NS", -1)
        before, state = content_digest(model), weights.stat()
        time.sleep(0.05)  # longer than a tick
        weights.write_bytes(b"\1" * 1000)
        os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert content_digest(model) != before


def test_settings_are_told_apart_whatever_their_order() -> None:
    assert fingerprint({"a": 1, "b": Path("x")}) == fingerprint({"b": "x", "a": 1}) != fingerprint({"a": 2, "b": "x"})
