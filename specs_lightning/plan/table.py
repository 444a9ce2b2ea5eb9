"""A plan in the terminal: a table of memory for each stage, what it will get through, and what to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from specs_lightning.plan.advice import Proposal
from specs_lightning.plan.memory import GIB, Memory, cache_room
from specs_lightning.plan.reading import PlannedWork
from specs_lightning.system.terminal import plain

LARGER = "take more devices, or a smaller model"


@dataclass(frozen=True)
class Verdict:
    """Whether a stage fits: bytes of its fullest moment and of a device, and what can be changed where it does not."""

    stage: str
    peak: int
    limit: int
    changes: tuple[Proposal, ...] = ()

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit

    @property
    def change(self) -> str:
        """The first that is enough."""
        enough = (change for change in self.changes if change.peak <= self.limit)
        return next((" and ".join(change.settings) for change in enough), LARGER)


def last_line(verdicts: Sequence[Verdict]) -> Text:
    """Whether all stages fit, and by how much; or what to change in each that does not."""
    several = len(verdicts) > 1
    if too_large := [verdict for verdict in verdicts if not verdict.fits]:
        changes = "; ".join(
            f"{verdict.stage}: {verdict.change}" if several else verdict.change for verdict in too_large
        )
        return Text(f"does not fit. Change this: {changes}", "red")
    fullest = max(verdicts, key=lambda verdict: verdict.peak / verdict.limit)
    needed = f"{_gib(fullest.peak)} of {_gib(fullest.limit)} GiB"
    return Text(f"fits: {fullest.stage} needs most, {needed}" if several else f"fits: it needs {needed}", "green")


def stage_table(planned: PlannedWork, memory: Memory, proposals: Sequence[Proposal]) -> RenderableType:
    """Everything that there is to say of a stage."""
    job, devices = planned.job, planned.job.devices
    limit, ranks = devices.memory, devices.ranks
    where = "GPU" if devices.on_gpu else "process"
    title = f"{planned.name}: {job.policy.model}, {ranks} {where}{'s' if ranks > 1 else ''}, {devices.strategy}"
    table = Table()
    table.add_column(f"GiB on each {where}")
    moments = memory.moments
    for moment in moments:
        table.add_column(moment, justify="right")
    for part in memory.parts:
        table.add_row(part.name, *(_gib(getattr(part, moment)) for moment in moments))
    table.add_section()
    totals = [Text(_gib(total), "red" if total > limit else "green") for total in map(memory.total, moments)]
    table.add_row(f"of {limit / GIB:.1f}", *totals, style="bold")
    lines = [Padding(line, (0, 0, 0, 2)) for line in _lines(planned, memory, proposals)]
    return Group(plain(title, "bold"), table, *lines, "")


def _lines(planned: PlannedWork, memory: Memory, proposals: Sequence[Proposal]) -> list[Text]:
    job = planned.job
    lines = [Text(", ".join(f"{number:,} {what}" for what, number in planned.work.items()))]
    for place, sizes in (("memory of the machines", planned.cost.host), ("disk", planned.cost.disk)):
        if sizes:
            parts = ", ".join(f"{what} {_gib(size)}" for what, size in sizes.items())
            lines.append(Text(f"{place}: {_gib(sum(sizes.values()))} GiB ({parts})"))
    if seconds := planned.cost.seconds:
        parts = ", ".join(f"{what} {_hours(number)}" for what, number in seconds.items())
        lines.append(Text(f"time: {_hours(sum(seconds.values()))} ({parts}), one after the other"))
    if (room := cache_room(job)) is not None:
        lines.append(Text(f"vLLM's key-value cache holds {room:,} of the longest sequences at once"))
    lines += [plain(f"note: {note}", "dim") for note in (*planned.notes, *planned.cost.assumed)]
    if not job.devices.on_gpu:
        lines.append(Text("note: freed memory is kept on a CPU, so the process will show up to twice as much", "dim"))
    if memory.peak > job.devices.memory:
        needed, limit = _gib(memory.peak), _gib(job.devices.memory)
        lines.append(Text(f"does not fit: {memory.fullest} needs {needed} GiB of {limit}", "red"))
        for proposal in proposals:
            fits = proposal.peak <= job.devices.memory
            verdict = "fits" if fits else f"still too much: {LARGER}"
            lines.append(Text(f"-> {' and '.join(proposal.settings)}: {_gib(proposal.peak)} GiB, {verdict}"))
        if not proposals:
            lines.append(Text("no setting makes it smaller: take a device with more memory, or a smaller model"))
    return lines


def _gib(size: int) -> str:
    if not size:
        return ""
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.3f}"


def _hours(seconds: float) -> str:
    """So that hours of a run and seconds of the toy are both read at a glance."""
    for unit, length in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
