"""Shards are read as torch wrote them, and nothing in their folder is run."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bombs import Bomb
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, load, save
from torch.distributed.checkpoint.api import CheckpointException

from specs_lightning.modules.checkpoint_files import CheckpointError, check
from specs_lightning.modules.sharded_files import ShardPlanner, ShardReader


def contents() -> dict[str, Any]:
    return {
        "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)},
        "optimizer": {"step": torch.tensor(3, dtype=torch.int64), "groups": [{"lr": 0.5, "betas": (0.9, 0.99)}]},
    }


def zeros() -> dict[str, Any]:
    found = contents()
    found["weights"] = {name: torch.zeros_like(weight) for name, weight in found["weights"].items()}
    found["optimizer"] = {"step": torch.tensor(0), "groups": [{"lr": 0.0, "betas": (0.0, 0.0)}]}
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(contents(), storage_writer=FileSystemWriter(tmp_path / "step=1.ckpt"))
    torch.save({"step_loop": {}, "settings": {}}, tmp_path / "step=1.ckpt" / "meta.pt")
    return tmp_path / "step=1.ckpt"


@pytest.fixture
def bomb(tmp_path: Path) -> Bomb:
    return Bomb(tmp_path / "went-off")


def read(folder: Path) -> dict[str, Any]:
    found = zeros()
    load(found, storage_reader=ShardReader(folder), planner=ShardPlanner())
    return found


def test_what_torch_wrote_is_read_as_torch_reads_it(folder: Path) -> None:
    found, expected = read(folder), zeros()
    load(expected, checkpoint_id=folder)
    assert found["optimizer"] == expected["optimizer"] == contents()["optimizer"]
    for name, weight in contents()["weights"].items():
        assert torch.equal(found["weights"][name], weight) and torch.equal(expected["weights"][name], weight)
    ours, theirs = ShardReader(folder).read_metadata(), FileSystemReader(folder).read_metadata()
    assert (ours.state_dict_metadata, ours.storage_data) == (theirs.state_dict_metadata, theirs.storage_data)
    check(folder)


def whole(folder: Path, bomb: Bomb) -> None:
    (folder / ".metadata").write_bytes(bomb.pickled)


def inside(folder: Path, bomb: Bomb) -> None:
    """In the place of something harmless, of an object of the right kind."""
    metadata = FileSystemReader(folder).read_metadata()
    metadata.planner_data = bomb
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


class Calls:
    """Pickled, it calls a function of a name."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def by_torch(folder: Path, bomb: Bomb) -> None:
    """A function of torch's own that unpickles anything."""
    file = io.BytesIO()
    torch.save(bomb, file)
    (folder / "inner").write_bytes(file.getvalue())
    call = Calls(torch.load, str(folder / "inner"))
    (folder / ".metadata").write_bytes(pickle.dumps(call))


def by_a_part_of_a_name(folder: Path, bomb: Bomb) -> None:
    """Through a module that is allowed to something that it has imported."""
    text = f"ctorch.distributed.checkpoint.metadata\nos.mkdir\n(V{bomb.marker}\ntR."
    (folder / ".metadata").write_bytes(text.encode())


class TestBomb:
    @pytest.mark.parametrize("plant", [whole, inside, by_torch, by_a_part_of_a_name])
    def test_in_the_list_of_shards(self, folder: Path, bomb: Bomb, plant: Callable[[Path, Bomb], None]) -> None:
        plant(folder, bomb)
        with pytest.raises(CheckpointError, match="which torch never writes there: it is not run"):
            check(folder)
        with pytest.raises(CheckpointException):
            read(folder)
        assert not bomb.went_off

    def test_it_would_go_off_in_torchs_own_reader(self, folder: Path, bomb: Bomb) -> None:
        inside(folder, bomb)
        FileSystemReader(folder).read_metadata()
        assert bomb.went_off

    def test_among_what_is_no_tensor(self, tmp_path: Path, bomb: Bomb) -> None:
        folder = tmp_path / "shards"
        save({"optimizer": {"groups": bomb}}, storage_writer=FileSystemWriter(folder))
        with pytest.raises(CheckpointException, match="UnpicklingError"):
            load(
                {"optimizer": {"groups": "anything"}},
                storage_reader=ShardReader(folder),
                planner=ShardPlanner(),
            )
        assert not bomb.went_off

    def test_in_what_is_not_in_shards(self, folder: Path, bomb: Bomb) -> None:
        torch.save({"step_loop": bomb}, folder / "meta.pt")
        with pytest.raises(CheckpointError, match="is damaged or no checkpoint"):
            check(folder)
        assert not bomb.went_off


def test_a_shard_outside_of_the_folder_is_refused(folder: Path) -> None:
    metadata = FileSystemReader(folder).read_metadata()
    for place in metadata.storage_data.values():
        place.relative_path = os.path.join("..", "elsewhere")
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="names a shard outside of its folder"):
        check(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"text", pickle.dumps({"a": 1}), pickle.dumps(None)])
def test_what_is_no_list_of_shards_is_refused(folder: Path, content: bytes) -> None:
    (folder / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint"):
        check(folder)
