"""The process that runs math-verify: one JSON request a line in, one JSON reply a line out.

Run as a script, apart from the package, so that it starts without torch. It imports math-verify, which takes seconds,
and lets a child compare, which inherits that: when a hostile answer has used up its processor time, the system ends the
child, and the next one is there in milliseconds. math-verify's own limits are off, since they rest on SIGALRM.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TextIO

TIMED_OUT = "timed out"
PLACES = 6
CAN_FORK = hasattr(os, "fork")
MEMORY_LIMIT = 4 * 2**30
"""Bytes of address space, so that a huge power ends in an error here and not in a machine out of memory."""


@lru_cache(maxsize=256)
def read(expression: str) -> tuple[Any, ...]:
    """What math-verify makes of an expression; empty where it makes nothing of it."""
    from math_verify import LatexExtractionConfig, parse

    config = (LatexExtractionConfig(boxed_match_priority=0),)
    boxed = rf"$\boxed{{{expression}}}$"
    try:
        found = parse(boxed, config, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True)
    except MemoryError:
        raise
    except Exception:  # its parsers raise a dozen kinds of error, all of which say that this is no expression
        return ()
    return tuple(found)


def compare(gold: str, answer: str, places: int | None = None) -> dict[str, Any]:
    """`{"correct": …, "cause": …}`: `correct` is null where there is no verdict, and `cause` then says why.

    Args:
        places: decimal places that must agree.
    """
    from math_verify import verify

    try:
        gold_read = read(gold)
        if not gold_read:
            return {"correct": None, "cause": "math-verify cannot parse the gold answer"}
        found = list(read(answer))
        rounding = PLACES if places is None else places
        correct = bool(found) and verify(
            list(gold_read), found, float_rounding=rounding, timeout_seconds=None, raise_on_error=True
        )
    except ImportError:
        raise
    except Exception as error:  # a verdict that could not be reached is reported, whatever the reason
        return {"correct": None, "cause": f"math-verify failed: {type(error).__name__}"}
    return {"correct": bool(correct), "cause": None}


def limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


class Child:
    """A forked process that compares. Its processor time is limited, which a busy machine does not shorten.

    Args:
        limit: seconds of processor time a comparison may take.
        patience: seconds on the clock, for one that waits instead of working.
    """

    def __init__(self, limit: float, patience: float) -> None:
        self.patience = patience
        self._out_of_patience = False
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._process_id = os.fork()
        if self._process_id == 0:
            os.close(self._requests)
            os.close(self._replies)
            with os.fdopen(requests, encoding="utf-8") as asked, os.fdopen(replies, "w", encoding="utf-8") as out:
                serve(asked, out, limit)
            os._exit(0)
        os.close(requests)
        os.close(replies)

    def ask(self, line: str) -> tuple[str, bool]:
        """The reply, and whether the child can be asked again."""
        try:
            _write(self._requests, line.encode())
            reply = self._read()
        except BrokenPipeError:
            reply = b""
        if reply.endswith(b"\n"):
            return reply.decode(), True
        os.close(self._requests)
        os.close(self._replies)
        _, status = os.waitpid(self._process_id, 0)
        ended = signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None
        if self._out_of_patience or ended == signal.SIGPROF:
            cause = TIMED_OUT
        elif ended is not None:
            cause = f"the math-verify process was killed ({ended.name})"
        else:
            cause = f"the math-verify process ended ({os.WEXITSTATUS(status)})"
        return json.dumps({"correct": None, "cause": cause}) + "\n", False

    def _read(self) -> bytes:
        reply, until = b"", time.monotonic() + self.patience
        while not reply.endswith(b"\n"):
            ready, _, _ = select.select([self._replies], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                self._out_of_patience = True
                os.kill(self._process_id, signal.SIGKILL)
                return b""
            if not (part := os.read(self._replies, 65536)):
                return b""
            reply += part
        return reply


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def serve(requests: Iterable[str], replies: TextIO, limit: float) -> None:
    """Answer until the requests end; where the system can, it ends this process when one takes too long."""
    for line in requests:
        request = json.loads(line)
        if CAN_FORK:
            signal.setitimer(signal.ITIMER_PROF, limit)
        reply = compare(**request)
        if CAN_FORK:
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), file=replies, flush=True)


def serve_by_children(requests: Iterable[str], replies: TextIO, limit: float, patience: float) -> None:
    """The same by children, a new one after each that was ended."""
    child: Child | None = None
    for line in requests:
        child = child or Child(limit, patience)
        reply, usable = child.ask(line)
        child = child if usable else None
        replies.write(reply)
        replies.flush()


def main(limit: float, patience: float) -> None:
    """Serve until the input ends.

    A comparison may take `limit` seconds of processor time, where processes can fork, and `patience` on the clock.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not break the protocol
    logging.disable(logging.CRITICAL)
    limit_memory()
    # A first comparison unasked: importing takes seconds, which are no request's fault
    try:
        ready = compare("1", "1+0")
    except ImportError as error:
        ready = {"correct": None, "cause": str(error)}
    print(json.dumps(ready), file=replies, flush=True)
    if CAN_FORK:
        serve_by_children(sys.stdin, replies, limit, patience)
    else:
        serve(sys.stdin, replies, limit)


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
