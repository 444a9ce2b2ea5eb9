"""Which checkpoint a training goes on from, and how one comes to be on the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.full_disks import no_room_for
from torch.distributed.checkpoint import FileSystemWriter, save

from specs_lightning.modules.checkpoint_files import (
    AtomicCheckpointIO,
    CheckpointError,
    ForeignCheckpoint,
    by_step,
    check,
    newest_usable,
    prune,
    remove_leftovers,
    saving,
)

SETTINGS = {
    "seed_everything": 0,
    "model": {
        "class_path": "GRPOModule",
        "init_args": {"policy": {"model": "a"}, "objective": {"clip_low": 0.2}, "max_tokens_per_micro_batch": 64},
    },
    "data": {"class_path": "Rollouts", "init_args": {"rounds": 3, "dynamic_sampling": None, "seed": 0}},
}


def write(file: Path, step: int, settings: dict[str, Any] = SETTINGS) -> Path:
    state = {"step_loop": {"steps": step}, "settings": settings, "state_dict": {"weight": torch.randn(500)}}
    AtomicCheckpointIO().save_checkpoint(state, file)
    os.utime(file, ns=(step, step))
    return file


def write_sharded(folder: Path) -> Path:
    """As Lightning does for several processes."""
    save({"weight": torch.randn(500)}, storage_writer=FileSystemWriter(folder))
    torch.save({"step_loop": {"steps": 1}, "settings": SETTINGS}, folder / "meta.pt")
    return folder


def changed(section: str, name: str, value: Any) -> dict[str, Any]:
    arguments = {**SETTINGS[section]["init_args"], name: value}  # type: ignore[index]
    return {**SETTINGS, section: {**SETTINGS[section], "init_args": arguments}}  # type: ignore[dict-item]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    """A single bit of a weight, which torch would load without a word."""
    content = bytearray(file.read_bytes())
    content[content.index(b"data/0") + 1000] ^= 1
    file.write_bytes(content)


def code(file: Path) -> None:
    torch.save({"step_loop": Path("/")}, file)


class TestTorn:
    @pytest.mark.parametrize("damage", [cut, empty, flip, code])
    @pytest.mark.bad_input("checkpoints")
    def test_it_is_reported_and_the_one_before_it_used(
        self, tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        before, torn = (write(tmp_path / f"step={step}.ckpt", step) for step in (1, 2))
        assert newest_usable(tmp_path, SETTINGS) == torn
        damage(torn)
        os.utime(torn, ns=(2, 2))
        assert newest_usable(tmp_path, SETTINGS) == before
        assert f"{torn} is damaged or no checkpoint (" in caplog.text

    def test_what_other_callbacks_keep_there_is_left_alone(self, tmp_path: Path) -> None:
        """A `ModelCheckpoint` saves before the step's other callbacks are done."""
        mine, best = (write(tmp_path / name, step) for step, name in enumerate(("step=1.ckpt", "best.ckpt")))
        assert newest_usable(tmp_path, SETTINGS) == mine
        (tmp_path / "step=best.ckpt").touch()
        prune(write(tmp_path / "step=2.ckpt", 2), 1)
        assert {file.name for file in tmp_path.iterdir()} == {"step=2.ckpt", "step=best.ckpt", best.name}
        assert not mine.exists()

    def test_where_none_is_whole_there_is_none(self, tmp_path: Path) -> None:
        cut(write(tmp_path / "step=1.ckpt", 1))
        assert newest_usable(tmp_path, SETTINGS) is None
        assert newest_usable(tmp_path / "missing", SETTINGS) is None

    def test_one_that_is_asked_for_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"step=1\.ckpt does not exist"):
            check(tmp_path / "step=1.ckpt")
        cut(write(tmp_path / "step=1.ckpt", 1))
        with pytest.raises(CheckpointError, match=r"step=1\.ckpt is damaged"):
            check(tmp_path / "step=1.ckpt")

    def test_one_of_several_processes(self, tmp_path: Path) -> None:
        folder = write_sharded(tmp_path / "step=1.ckpt")
        check(folder, SETTINGS)
        (shard,) = folder.glob("*.distcp")
        cut(shard)
        with pytest.raises(CheckpointError, match=rf"is damaged .*{shard.name} ends before byte \d"):
            check(folder, SETTINGS)
        shard.unlink()
        with pytest.raises(CheckpointError, match="is damaged"):
            check(folder, SETTINGS)

    @pytest.mark.parametrize("missing", [".metadata", "meta.pt"])
    @pytest.mark.bad_input("checkpoints")
    def test_and_without_what_belongs_to_it(self, tmp_path: Path, missing: str) -> None:
        (write_sharded(tmp_path / "step=1.ckpt") / missing).unlink()
        with pytest.raises(CheckpointError, match="is damaged"):
            check(tmp_path / "step=1.ckpt", SETTINGS)


class TestForeign:
    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            (changed("model", "objective", {"clip_low": 0.3}), r"model\.objective\.clip_low: 0\.2 -> 0\.3"),
            (changed("data", "dynamic_sampling", {"max_refills": 1}), r"data\.dynamic_sampling: None -> \{"),
            ({**SETTINGS, "seed_everything": 1}, r"seed_everything: 0 -> 1"),
            (
                changed("model", "policy", {"chat_template_kwargs": {"enable_thinking": False}}),
                r"model\.policy\.chat_template_kwargs\.enable_thinking: \(not set\) -> False",
            ),
        ],
    )
    @pytest.mark.bad_input("checkpoints")
    def test_one_of_other_settings_is_refused_with_the_difference(
        self, tmp_path: Path, settings: dict[str, Any], line: str
    ) -> None:
        file = write(tmp_path / "step=1.ckpt", 1)
        with pytest.raises(ForeignCheckpoint, match=rf"belongs to a training with other settings:\n  {line}"):
            check(file, settings)
        with pytest.raises(ForeignCheckpoint, match=line):  # rather than to begin anew, over what is there
            newest_usable(tmp_path, settings)

    def test_the_one_before_it_is_used(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        mine = write(tmp_path / "step=1.ckpt", 1)
        write(tmp_path / "step=2.ckpt", 2, {**SETTINGS, "seed_everything": 1})
        assert newest_usable(tmp_path, SETTINGS) == mine
        assert "seed_everything: 1 -> 0" in caplog.text

    @pytest.mark.parametrize(
        ("section", "name", "value"),
        [
            ("model", "policy", {"model": "moved/a"}),
            ("model", "policy", {"chat_template_kwargs": {}}),  # which an earlier version did not have
            ("model", "max_tokens_per_micro_batch", 32),
            ("data", "rounds", 4),
            ("data", "a_setting_of_a_later_version", 1),
        ],
    )
    def test_what_does_not_change_what_is_trained_may_be_another(
        self, tmp_path: Path, section: str, name: str, value: Any
    ) -> None:
        check(write(tmp_path / "step=1.ckpt", 1), changed(section, name, value))

    def test_one_of_another_package_is_refused(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
        with pytest.raises(ForeignCheckpoint, match="was not written by a training of this package"):
            check(tmp_path / "a.ckpt", SETTINGS)


class TestSaving:
    def test_a_full_disk_leaves_what_was_there(self, tmp_path: Path) -> None:
        before = write(tmp_path / "step=1.ckpt", 1)
        content = before.read_bytes()
        with (
            pytest.raises(CheckpointError, match=r"step=2.*: the disk is full\. step=1\.ckpt is whole.*make room"),
            no_room_for("step=2.ckpt"),
        ):
            write(tmp_path / "step=2.ckpt", 2)
        assert list(tmp_path.iterdir()) == [before] and before.read_bytes() == content

    def test_a_full_disk_is_told_as_one_where_torch_hides_it(self, tmp_path: Path) -> None:
        hidden = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
        hidden.__context__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        said = rf"{tmp_path}/step=2\.ckpt could not be saved: the disk is full\. .*: make room"
        with pytest.raises(CheckpointError, match=said), saving(tmp_path / "step=2.ckpt"):
            raise hidden

    def test_any_other_failure_is_named(self, tmp_path: Path) -> None:
        with (
            pytest.raises(CheckpointError, match=r"OSError: .*Input/output error. there is none before it"),
            saving(tmp_path / "step=2.ckpt"),
        ):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def test_the_oldest_are_deleted(self, tmp_path: Path) -> None:
        for step in (3, 1, 2):
            write(tmp_path / f"step={step}.ckpt", step)
        write_sharded(tmp_path / "step=0.ckpt")
        prune(tmp_path / "step=3.ckpt", 2)
        assert [file.name for file in by_step(tmp_path)] == ["step=3.ckpt", "step=2.ckpt"]
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize("keep", [1, 2])
    def test_the_order_is_that_of_steps_after_the_clock_was_set_back(self, tmp_path: Path, keep: int) -> None:
        """Or after the folder was copied: then all are of one moment, or of any."""
        for step in (8, 9, 10, 11):
            saved = write(tmp_path / f"step={step}.ckpt", step)
            os.utime(saved, ns=(1000 - step, 1000 - step))
            prune(saved, keep)
            assert saved.exists() and newest_usable(tmp_path) == saved
        assert [file.name for file in by_step(tmp_path)] == ["step=11.ckpt", "step=10.ckpt"][:keep]

    @pytest.mark.parametrize("make", [write, lambda file, step: write_sharded(file)], ids=["file", "folder"])
    def test_what_is_saved_stays_where_there_are_later_ones_which_are_set_aside(
        self, tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A training that was begun anew, or that goes on from an earlier step."""
        for step in (90, 100):
            make(tmp_path / f"step={step}.ckpt", step)
        for step in (1, 2, 3):
            saved = make(tmp_path / f"step={step}.ckpt", step)
            prune(saved, 2)
            assert by_step(tmp_path)[0] == saved
        assert {file.name for file in tmp_path.iterdir()} == {
            "step=3.ckpt",
            "step=2.ckpt",
            "step=90.ckpt.set_aside",
            "step=100.ckpt.set_aside",
        }
        assert "step=100.ckpt is of a later step than this training is at" in caplog.text

    def test_what_a_killed_process_left_is_removed(self, tmp_path: Path) -> None:
        kept = write(tmp_path / "step=1.ckpt", 1)
        for leftover in ("step=2.ckpt.partial", "step=0.ckpt.replaced"):
            (tmp_path / leftover).mkdir()
            (tmp_path / leftover / "shard").touch()
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [kept]
