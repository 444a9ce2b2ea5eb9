"""How many threads a process computes with on a CPU, and how they wait for each other: OpenMP reads it with torch.

By default torch's OpenMP (GNU's) lets a thread that waits spin for milliseconds. Where other processes take the cores,
it spins away the time in which the thread that it waits for would run: many times slower (docs/benchmarks.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What says how threads wait. Who has set one of them has chosen."""
ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
CONTROL_GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def prepare_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads sleep, and start no more of them than the container has cores for; unless it is set.

    To be called before torch is loaded.
    """
    if not any(name in environment for name in WAITING):
        environment.update(ASLEEP)
    if (cores := allowed_cores()) < own_cores():
        environment.setdefault("OMP_NUM_THREADS", str(cores))


def own_cores() -> int:
    """Those that this process may run on (its affinity): torch starts as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allowed_cores() -> int:
    """Whole cores whose time it may use: by its affinity, and by the quotas of the control groups that it is in."""
    return max(1, int(min([own_cores(), *_quotas()])))


def _quotas() -> Iterator[float]:
    """In cores, of this process's control groups and of those above them; of both versions of the interface."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:  # not Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = CONTROL_GROUPS / controllers
        place = mounted / path.lstrip("/")
        for group in (place, *place.parents):
            if group.is_relative_to(mounted):  # within a container, what is above is not to be seen
                yield from _quota(group)


def _quota(group: Path) -> Iterator[float]:
    """Time in a period, over the period; a group without a limit has `max`, or -1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
        except OSError:
            continue
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)
