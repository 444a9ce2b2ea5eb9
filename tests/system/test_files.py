"""A file or a folder is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs_lightning.system.files import atomic, cache_folder, keep_beside, keep_lines, remove, write_atomically


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
