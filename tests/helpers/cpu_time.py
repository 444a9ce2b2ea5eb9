"""What a piece of work costs, whatever else the process and the machine are doing."""

from __future__ import annotations

import time
from collections.abc import Callable


def cpu_seconds(work: Callable[[], object], tries: int = 3) -> float:
    """CPU seconds of this thread for ``work``: the least of some tries, as garbage may be collected during one."""
    seconds = []
    for _ in range(tries):
        start = time.thread_time()
        work()
        seconds.append(time.thread_time() - start)
    return min(seconds)
