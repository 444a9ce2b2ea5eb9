"""A disk on which there is no room for a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from specs_lightning.modules import checkpoint_files


@contextmanager
def no_room_for(name: str, inside: str | None = None) -> Iterator[None]:
    """Have the writing of a checkpoint fail as it does where the disk is full; of a folder, that of a file in it."""
    atomic: Callable = checkpoint_files.atomic

    @contextmanager
    def without_room(path: Path) -> Iterator[Path]:
        with atomic(path) as partial:
            if path.name == name:
                full = partial / inside if inside else partial
                full.parent.mkdir(exist_ok=True)
                full.symlink_to("/dev/full")
            yield partial

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint_files, "atomic", without_room)
        yield
