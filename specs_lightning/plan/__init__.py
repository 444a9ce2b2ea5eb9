"""`specs plan`: what a run will need and get through, before anything is started.

Nothing is downloaded but a configuration, no weights are read, no device is used.
"""

from __future__ import annotations

from collections.abc import Sequence

from specs_lightning.plan.advice import proposals
from specs_lightning.plan.memory import memory_of
from specs_lightning.plan.reading import read
from specs_lightning.plan.table import Verdict, last_line, stage_table
from specs_lightning.system.terminal import console


def plan(args: Sequence[str]) -> bool:
    """Print the plan of the configuration that the arguments name, after the command; whether all of it fits."""
    verdicts = []
    for planned in read(args[1:]):
        memory, limit = memory_of(planned.job), planned.job.devices.memory
        changes = proposals(planned.job) if memory.peak > limit else []
        console.print(stage_table(planned, memory, changes))
        verdicts.append(Verdict(planned.name, memory.peak, limit, tuple(changes)))
    console.print(last_line(verdicts), soft_wrap=True)
    return all(verdict.fits for verdict in verdicts)
