"""`specs fit` in a process of its own, and the most memory it had in use: what its libraries took before is left out.

Tensors are returned to the system when they are freed (the package keeps them, for speed), so that the peak of the
process is what was needed at once. Several trainings follow each other in one process, whose peak is reset between.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measured_peaks(trainings: Sequence[Sequence[str]], folder: Path) -> list[int]:
    """Bytes that `specs fit` with each of these arguments needed above what there was before."""
    command = [sys.executable, __file__, json.dumps(trainings)]
    done = subprocess.run(command, cwd=folder, env=os.environ | SETTINGS, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def _status(name: str) -> int:
    """Bytes of an entry of this process's status."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    from specs_lightning.commands import process

    process.keep_freed_memory = lambda: True
    from specs_lightning.commands import fit as lightning_cli
    from specs_lightning.runs import warm  # noqa: F401  imports all that a training does, and prepares the process

    peaks = []
    for arguments in json.loads(sys.argv[1]):
        gc.collect()
        before = _status("RssAnon")
        RESET.write_text("5")
        lightning_cli.SpecsCLI.launch(["fit", *arguments])
        # Code that is mapped from libraries is in the peak, too; it only ever grows.
        peaks.append(_status("VmHWM") - _status("RssFile") - before)
    print(json.dumps(peaks))
