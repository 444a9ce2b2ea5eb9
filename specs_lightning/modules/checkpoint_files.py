"""Checkpoints on disk: how they are written, whether one can be used, and which of a folder is gone on from."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.load import _METADATA_FILENAME
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from specs_lightning.errors import SpecsError
from specs_lightning.modules.sharded_files import ShardReader, weights_in_shards
from specs_lightning.settings.nested import NOT_SET, changes
from specs_lightning.system.files import PARTIAL, REPLACED, atomic, full_disk, move_over, partial_path, remove

log = logging.getLogger(__name__)

SHARDED_STATE = _METADATA_FILENAME
"""The file that holds what is not in shards, in the folder of a checkpoint that several processes wrote."""
FOLDER = "checkpoints"
"""Where a training has them, in its own folder."""
LAST, BEST = "last", "best"
"""What a checkpoint may be asked for by: the newest one, and what a `ModelCheckpoint` of `filename: best` keeps."""
NAME = "step={}.ckpt"
"""A training's own checkpoints. Others may lie beside them: those that a `ModelCheckpoint` keeps."""
SET_ASIDE = ".set_aside"
"""The ending of checkpoints of later steps than the training is at."""
MAY_DIFFER = (
    # Places, not contents: a run may be moved. Other models and data are noticed by their digests.
    "model.policy.model",
    "model.policy.revision",
    "model.reference_model",
    "data.train",
    "data.judge.cache",
    # How something is computed, not what.
    "model.max_tokens_per_micro_batch",
    "model.policy.attention",
    "model.policy.gradient_checkpointing",
    "model.policy.shared_prefix",
    "data.engine",
    "data.evaluation",
    "data.evaluation_batch",
    "data.evaluation_sampling",
    "data.evaluation_with_choice",
    "data.max_unscored_share",
    "data.prefetch_rounds",
    # A longer or shorter training, decided before its end.
    "data.rounds",
)
"""Settings of a training that may be others when it goes on."""
OPEN = ("model.policy.chat_template_kwargs.",)
"""Settings with names of the user's choice: one that is not there is another value, and no matter of versions."""

ANOTHER = "give the path of one, or the folder of its training for its newest that is whole"
UNREADABLE = (
    *(OSError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
)
"""What reading a file raises that is not what it seems, or not all of it."""


class CheckpointError(SpecsError, RuntimeError):
    """A checkpoint that cannot be written or used; the message says why, and what to do."""


class ForeignCheckpoint(CheckpointError):
    """A checkpoint of another training."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint as `saving` does, straight to the disk: Lightning's own holds all of it in memory first.

    Reads one in shards, too, for a single process.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None) -> None:
        with saving(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Path | str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Nothing in it is run, whatever the trainer was told."""
        file = Path(path)
        if file.is_dir():
            return {**_read_sharded(file), "state_dict": weights_in_shards(file)}
        loaded: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs | {"weights_only": True})
        return loaded


def trained_weights(file: Path) -> dict[str, Tensor]:
    """The weights that a checkpoint holds by name, whole: all of the module, or those that were trained."""
    if file.is_dir():
        return weights_in_shards(file)
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)["state_dict"]
    return weights


def check_weights(module: nn.Module, saved: Collection[str]) -> None:
    """Whether weights of these names are those of a module: all that are trained, and none that it does not have.

    Raises:
        CheckpointError: they are not.
    """
    if missing := {name for name, weight in module.named_parameters() if weight.requires_grad} - set(saved):
        raise CheckpointError(f"the checkpoint lacks {len(missing)} weights that are trained: {min(missing)}, …")
    if unknown := set(saved) - set(module.state_dict()):
        raise CheckpointError(f"the checkpoint is of another model: this one has no {min(unknown)}")


@contextmanager
def saving(file: Path, first: bool = True) -> Iterator[Path]:
    """As `atomic`, with an error that says what is left.

    Where several processes write it together, the first one makes it appear, when all have written.

    Raises:
        CheckpointError: it could not be written.
    """
    try:
        with atomic(file) if first else nullcontext(partial_path(file)) as partial:
            yield partial
    except (OSError, RuntimeError, CheckpointException) as error:
        failures = error.failures if isinstance(error, CheckpointException) else {}
        cause = next(iter(failures.values()))[0] if failures else error  # of what several processes met, the first
        full = full_disk(cause)
        reason = "the disk is full" if full else f"{type(cause).__name__}: {cause}"
        before = by_step(file.parent)
        left = f"{before[0].name} is whole, and the training can go on from it" if before else "there is none before it"
        remedy = "make room" if full else "see to it"
        raise CheckpointError(f"{file} could not be saved: {reason}. {left}: {remedy}, and start again") from error


def prune(saved: Path, keep: int) -> None:
    """Delete all but the newest checkpoints of a training, of which one was just saved.

    Those of later steps are of a course that it has left, or of another training. They are set aside, so that none goes
    on from them by chance.
    """
    for file in by_step(saved.parent):
        if _step(file) > _step(saved):
            aside = file.with_name(file.name + SET_ASIDE)
            move_over(file, aside)
            log.warning("%s is of a later step than this training is at: it is now %s", file, aside.name)
    for file in by_step(saved.parent)[keep:]:
        doomed = file.with_name(file.name + REPLACED)  # a half-deleted folder would look like a checkpoint
        file.rename(doomed)
        remove(doomed)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process was about to write or to delete."""
    for ending in (PARTIAL, REPLACED):
        for leftover in folder.glob(f"*.ckpt{ending}"):
            remove(leftover)


def by_step(folder: Path) -> list[Path]:
    """A training's own checkpoints, the newest first: that of the latest step, whatever the clock said."""
    return sorted((file for file in folder.glob(NAME.format("*")) if _step(file) >= 0), key=_step, reverse=True)


def _step(file: Path) -> int:
    """The step that a checkpoint is of by its name; -1 where the name tells none."""
    found = re.fullmatch(NAME.format(r"(\d+)"), file.name)
    return -1 if found is None else int(found[1])


def find(asked: str | Path, folder: Path, settings: dict[str, Any] | None = None) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that is meant, and what it holds (of shards without tensors).

    Args:
        asked: its path; `last` or `best`, of the training in `folder`; or the folder of a training, for its newest.
        folder: that of a training.
        settings: of the training that is to go on from it; any if not given.

    Raises:
        CheckpointError: there is none, or it is not whole.
        ForeignCheckpoint: it belongs to another training, or was not written by this package.
    """
    path = Path(asked)
    if str(asked) == BEST:
        path = folder / FOLDER / f"{BEST}.ckpt"
    elif str(asked) == LAST or (path / FOLDER).is_dir():
        place = (folder if str(asked) == LAST else path) / FOLDER
        newest = newest_usable(place, settings)
        if newest is None:
            raise CheckpointError(f"no checkpoint to use in {place}: {ANOTHER}")
        path = newest
    return path, check(path, settings)


def newest_usable(folder: Path, settings: dict[str, Any] | None = None) -> Path | None:
    """The checkpoint to go on from; none where there is none, or none is whole.

    One that cannot be used, by a training of these settings, is reported, and the one before it is tried.

    Raises:
        ForeignCheckpoint: what there is belongs to another training.
    """
    foreign: ForeignCheckpoint | None = None
    for file in by_step(folder):
        try:
            check(file, settings)
            return file
        except CheckpointError as error:
            log.warning("checkpoint not used: %s", error)
            foreign = error if isinstance(error, ForeignCheckpoint) else foreign
    if foreign is not None:
        raise foreign
    return None


def check(file: Path, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a checkpoint holds, a file or a folder, from which a training of these settings (any, if not given) can go
    on: of a folder, without its tensors. Of a file, every byte is read.

    Raises:
        CheckpointError: it is not whole.
        ForeignCheckpoint: it belongs to another training, or was not written by this package.
    """
    if not file.exists():
        raise CheckpointError(f"{file} does not exist: {ANOTHER}")
    try:
        state = _read_sharded(file) if file.is_dir() else _read_file(file)
    except UNREADABLE as error:
        raise CheckpointError(
            f"{file} is damaged or no checkpoint ({type(error).__name__}: {error}): {ANOTHER}"
        ) from error
    if not isinstance(state, dict) or "step_loop" not in state:
        raise ForeignCheckpoint(f"{file} was not written by a training of this package: {ANOTHER}")
    if changed := _changes(state.get("settings", {}), settings or {}):
        raise ForeignCheckpoint(
            f"{file} belongs to a training with other settings:\n"
            + "\n".join(changed)
            + "\ngive this one a folder of its own (trainer.default_root_dir), or start from the other's exported model"
        )
    return state


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A line for each setting that both know and that differs; a version of the package may know more of them."""
    return [
        f"  {name}: {before} -> {after}"
        for dotted, before, after in changes(old, new)
        if not (name := dotted.replace(".init_args", "")).startswith(MAY_DIFFER)
        and (NOT_SET not in (before, after) or name.startswith(OPEN))
    ]


def _read_file(file: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        if (broken := archive.testzip()) is not None:
            raise ValueError(f"{broken} does not match its checksum")
    return torch.load(file, map_location="cpu", mmap=True, weights_only=True)


def _read_sharded(folder: Path) -> Any:
    """Without its tensors, whose files are only measured."""
    for place in ShardReader(folder).read_metadata().storage_data.values():
        shard, end = folder / place.relative_path, place.offset + place.length
        if shard.stat().st_size < end:
            raise ValueError(f"{shard.name} ends before byte {end}")
    return torch.load(folder / SHARDED_STATE, map_location="cpu", weights_only=True)
