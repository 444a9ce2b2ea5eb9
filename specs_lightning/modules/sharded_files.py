"""Folders of shards, read without running anything: torch's own reader unpickles what it finds there."""

from __future__ import annotations

import io
import pathlib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import checkpoint
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, filesystem, metadata
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.serialization import _get_layout

METADATA = ".metadata"
"""The file that says which tensor is where."""
_KNOWN: dict[tuple[str, str], Any] = {
    (found.__module__, found.__qualname__): found
    for found in (
        metadata.BytesStorageMetadata,
        metadata.ChunkStorageMetadata,
        metadata.Metadata,
        metadata.MetadataIndex,
        metadata.StorageMeta,
        metadata.TensorProperties,
        metadata.TensorStorageMetadata,
        metadata._MEM_FORMAT_ENCODING,
        filesystem._StorageInfo,
        torch.Size,
        _get_layout,
    )
}
"""All that torch writes there, besides types of numbers and the folder's path."""


class _Unpickler(pickle.Unpickler):
    """Knows these and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if module in ("pathlib", "pathlib._local") and name in ("PosixPath", "WindowsPath"):
            return pathlib.PurePath  # written by either system; nothing opens it
        raise pickle.UnpicklingError(f"{METADATA} names {module}.{name}, which torch never writes there: it is not run")


class ShardReader(FileSystemReader):
    """Torch's, with an unpickler that knows the few classes that torch writes.

    Raises:
        pickle.UnpicklingError: the folder names anything else.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / METADATA).open("rb") as file:
            found = _Unpickler(file).load()
        if not isinstance(found, Metadata):
            raise pickle.UnpicklingError(f"{METADATA} holds a {type(found).__name__}, no list of shards")
        for place in (found.storage_data or {}).values():
            if Path(place.relative_path).name != place.relative_path:
                raise pickle.UnpicklingError(f"{METADATA} names a shard outside of its folder: {place.relative_path}")
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class ShardPlanner(DefaultLoadPlanner):
    """Torch's, which takes of what is no tensor (learning rates and the like) plain values alone."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = torch.load(value, weights_only=True)
        rewritten = io.BytesIO()  # since torch's own would unpickle what was read
        torch.save(plain, rewritten)
        rewritten.seek(0)
        super().load_bytes(read_item, rewritten)


def weights_in_shards(folder: Path) -> dict[str, Tensor]:
    """The module's weights by name, put together from all shards in this one process."""
    known = ShardReader(folder).read_metadata().state_dict_metadata
    above = "state_dict."
    weights = {
        name.removeprefix(above): torch.empty(found.size, dtype=found.properties.dtype)  # type: ignore[union-attr]
        for name, found in known.items()
        if name.startswith(above)
    }
    checkpoint.load({"state_dict": weights}, storage_reader=ShardReader(folder), planner=ShardPlanner(), no_dist=True)
    return weights
