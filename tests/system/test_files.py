"""A file or a folder is there whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from specs_lightning.system.files import (
    NotWritable,
    atomic,
    cache_folder,
    check_writable,
    full_disk,
    keep_beside,
    keep_lines,
    naming_what_has_no_room,
    remove,
    write_atomically,
)


class Broken(Exception):
    pass


def test_a_file_replaces_the_one_before_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file.txt"
    for text in ("first", "second é"):
        write_atomically(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_was_there_stays_where_writing_fails(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"

    def write(path: Path, text: str) -> None:
        if kind == "folder":
            path.mkdir()
            path = path / "inside"
        path.write_text(text)

    with atomic(place) as partial:
        write(partial, "first")
    with pytest.raises(Broken), atomic(place) as partial:
        write(partial, "second")
        raise Broken
    inside = place / "inside" if kind == "folder" else place
    assert inside.read_text() == "first"
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_replaces_the_one_before_it_with_all_that_was_in_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with atomic(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / name).write_text(name)
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["b"]
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_what_a_killed_process_left_is_no_obstacle(tmp_path: Path) -> None:
    for leftover in ("folder.partial", "folder.replaced"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "old").write_text("old")
    (tmp_path / "folder").mkdir()
    with atomic(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "new").write_text("new")
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == ["folder", "folder/new"]


@pytest.mark.parametrize("text", ["", "a\nb\nc\n", "a\nb\nc\nbroken off"])
def test_a_text_file_is_cut_to_its_first_lines(tmp_path: Path, text: str) -> None:
    file = tmp_path / "lines"
    file.write_text(text)
    keep_lines(file, 3)
    assert file.read_text() == text.removesuffix("broken off")
    keep_lines(file, 2)
    assert file.read_text() == "".join(f"{letter}\n" for letter in "ab" if letter in text)
    keep_lines(tmp_path / "missing", 2)
    assert not (tmp_path / "missing").exists()


def test_what_is_not_there_need_not_be_removed(tmp_path: Path) -> None:
    remove(tmp_path / "nothing")


def test_what_can_be_made_again_is_kept_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SPECS_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "specs-lightning"


def test_what_makes_room_is_kept_under_the_first_free_number(tmp_path: Path) -> None:
    assert keep_beside(tmp_path / "model") is None
    for number in (1, 2):
        (tmp_path / "model").mkdir()
        assert keep_beside(tmp_path / "model") is None  # empty
        (tmp_path / "model" / "config.json").write_text(str(number))
        assert keep_beside(tmp_path / "model") == tmp_path / f"model.{number}"
        assert (tmp_path / f"model.{number}" / "config.json").read_text() == str(number)
        assert not (tmp_path / "model").exists()


class TestFullDisks:
    def hidden(self) -> RuntimeError:
        """As torch hides it."""
        error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
        error.__context__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return error

    def test_one_is_found_behind_what_libraries_raise_of_it(self) -> None:
        rust = Exception("Error while serializing: I/O error: No space left on device (os error 28)")
        above = ValueError("cannot save")
        above.__cause__ = self.hidden()
        for error in (self.hidden(), above, rust, OSError(errno.EDQUOT, "quota")):
            found = full_disk(error)
            assert found is not None and found.errno in (errno.ENOSPC, errno.EDQUOT)

    def test_other_errors_are_none(self) -> None:
        above = RuntimeError("of something else")
        above.__context__ = FileNotFoundError(errno.ENOENT, "No such file")
        assert full_disk(above) is None and full_disk(Exception("permission denied (os error 13)")) is None

    def test_it_is_told_with_the_file_that_it_is_full_for(self, tmp_path: Path) -> None:
        full = tmp_path / "full"
        full.symlink_to("/dev/full")
        with pytest.raises(OSError, match=f"No space left on device: '{full}'"), naming_what_has_no_room(full):
            full.write_text("x")
        file = tmp_path / "file"
        with pytest.raises(OSError, match=f"No space left on device: '{file}'"), atomic(file):
            raise self.hidden()
        with pytest.raises(RuntimeError, match="of something else"), atomic(file):
            raise RuntimeError("of something else")


class TestWritable:
    def test_a_folder_is_made_and_nothing_is_left_in_it(self, tmp_path: Path) -> None:
        check_writable(tmp_path / "new" / "folder")
        assert list((tmp_path / "new" / "folder").iterdir()) == []

    def test_one_on_a_read_only_disk_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(**unused: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        with pytest.raises(NotWritable, match=f"written to {tmp_path} .Read-only file system.: give another folder"):
            check_writable(tmp_path)

    def test_a_place_below_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(NotWritable, match="Not a directory"):
            check_writable(tmp_path / "file" / "folder")
