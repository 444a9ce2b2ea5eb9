"""How long it takes to score each gold answer of a data set against itself, and to find the verdicts again.

    python benchmarks/golds.py --golds 3000

Prints a JSON object a line, for golds that rules can compare (numbers, options, words) and for expressions, each first
with nothing kept and then with all verdicts kept; `seconds_for_86k` is extrapolated to the 86,000 golds of Orsta-47k
and ViRL39K. No two golds are alike.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from specs_lightning.groups import Prompt
from specs_lightning.scoring.golds import GoldCheck

PAPERS_GOLDS = 86_000
RULES: list[Callable[[int], str]] = [
    lambda n: str(n),
    lambda n: f"{n / 7:.3f}",
    lambda n: f"{n} cm",
    lambda n: rf"\frac{{{n}}}{{{n + 1}}}",
    lambda n: f"{n} red bars",
    lambda n: f"the {'abcdefghijklmnopqrstuvwxyz'[n % 26]}{'a' * (n % 40)}rt of item",
]
EXPRESSIONS: list[Callable[[int], str]] = [
    lambda n: rf"\sqrt{{{n}}}",
    lambda n: rf"{n}\pi",
    lambda n: rf"\frac{{{n}\sqrt{{3}}}}{{2}}",
    lambda n: f"x^2 + {n}x - 1",
    lambda n: rf"({n}, {n + 1})",
    lambda n: rf"\frac{{a+{n}}}{{b}}",
    lambda n: rf"2^{{{n % 50}}} + {n}x",
    lambda n: f"y = {n}x + {n + 2}",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golds", type=int, default=3000, help="of each kind")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    for kind, forms in {"rules": RULES, "expressions": EXPRESSIONS}.items():
        numbers = random.Random(0).sample(range(2, 100_000), args.golds)
        prompts = [Prompt(str(n), (), answer=forms[i % len(forms)](n)) for i, n in enumerate(numbers)]
        with TemporaryDirectory() as folder:
            for kept in (False, True):
                figures = measure(prompts, args.workers, Path(folder))
                json.dump({"kind": kind, "verdicts_kept": kept, **figures}, sys.stdout)
                print(flush=True)


def measure(prompts: list[Prompt], workers: int, folder: Path) -> dict[str, float]:
    """Check all of them, in as many threads as workers."""
    start, cpu = time.perf_counter(), time.process_time()
    with GoldCheck(workers, folder) as golds, ThreadPoolExecutor(workers) as threads:
        causes = list(threads.map(golds.cause, prompts))
    seconds = time.perf_counter() - start
    return {
        "golds": len(prompts),
        "set_aside": sum(cause is not None for cause in causes),
        "seconds": round(seconds, 2),
        "cpu_seconds_without_math_verify": round(time.process_time() - cpu, 2),
        "golds_per_second": round(len(prompts) / seconds, 1),
        "seconds_for_86k": round(seconds * PAPERS_GOLDS / len(prompts), 1),
    }


if __name__ == "__main__":
    main()
