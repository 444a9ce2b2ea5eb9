"""`specs plan`: what a run will need and get through, before anything is started.

Nothing is downloaded but a configuration, no weights are read, no device is used.
"""

from __future__ import annotations

from collections.abc import Sequence

from specs_lightning.plan.advice import proposals
from specs_lightning.plan.memory import memory_of
from specs_lightning.plan.reading import read
from specs_lightning.plan.table import stage_table
from specs_lightning.system.terminal import console


def plan(args: Sequence[str]) -> bool:
    """Print the plan of the configuration that the arguments name, after the command; whether all of it fits."""
    fits = True
    for planned in read(args[1:]):
        memory = memory_of(planned.job)
        too_much = memory.peak > planned.job.devices.memory
        console.print(stage_table(planned, memory, proposals(planned.job) if too_much else ()))
        fits = fits and not too_much
    return fits
