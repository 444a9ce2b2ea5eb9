"""The process that runs math-verify: one JSON request a line in, one JSON reply a line out.

Run as a script, apart from the package, so that it starts without torch. Whoever started it enforces the time limit
by killing it; math-verify's own limits are off, since they rest on SIGALRM.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
from functools import lru_cache
from typing import Any

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


def compare(gold: str, answer: str) -> dict[str, Any]:
    """`{"correct": …, "cause": …}`: `correct` is null where there is no verdict, and `cause` then says why."""
    from math_verify import verify

    try:
        gold_read = read(gold)
        if not gold_read:
            return {"correct": None, "cause": "math-verify cannot parse the gold answer"}
        answer_read = read(answer)
        correct = bool(answer_read) and verify(
            list(gold_read), list(answer_read), timeout_seconds=None, raise_on_error=True
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


def main(give_up_seconds: float) -> None:
    """Serve until the input ends.

    Args:
        give_up_seconds: after so long on one request the process ends itself: the killer may have died first.
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
    for line in sys.stdin:
        request = json.loads(line)
        faulthandler.dump_traceback_later(give_up_seconds, exit=True)
        reply = compare(request["gold"], request["answer"])
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
