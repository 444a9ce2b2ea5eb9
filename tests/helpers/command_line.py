"""The command line in this process, from the project's root as its configuration files expect."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from specs_lightning.cli import main

ROOT = Path(__file__).parents[2]
EXPORT_ALONE = "--trainer.callbacks=[{class_path: specs_lightning.callbacks.ExportHF}]"


@contextmanager
def working_directory(folder: Path) -> Iterator[None]:
    """`specs` puts the working directory on the import path: both are as before, for other processes, too."""
    before, path, arguments = Path.cwd(), list(sys.path), list(sys.argv)
    safe = os.environ.get("PYTHONSAFEPATH")
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:], sys.argv[:] = path, arguments
        for name, module in list(sys.modules.items()) if folder != ROOT else ():
            if Path(getattr(module, "__file__", None) or ROOT).parent == folder:
                del sys.modules[name]  # another folder's of this name would be taken for it
        if safe is None:
            os.environ.pop("PYTHONSAFEPATH", None)


def specs(*args: object, cwd: Path = ROOT) -> None:
    """Run `specs` with these arguments."""
    with working_directory(cwd):
        main([str(arg) for arg in args])


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """What the command says as it refuses its arguments."""
    with pytest.raises(SystemExit) as exit:
        specs(*args)
    assert exit.value.code not in (0, None)
    return capsys.readouterr().err + (exit.value.code if isinstance(exit.value.code, str) else "")
