"""Faults at random, by a seed, from outside of what they befall: rollout servers, a judge, processes and disks.

Servers are the real HTTP application around a sampler that makes completions of a request's seed: whoever answers, the
same request has the same answer.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from helpers.judge_servers import Reply, completion, honest, user_text
from helpers.vllm_servers import FakeSampler, FakeServer

from specs_lightning.groups import Completion
from specs_lightning.policy.processors import load_processor
from specs_lightning.rollout.sampler import SampleRequest
from specs_lightning.toy import resolve

TEXTS = [f"<think>I look.</think><answer>{said}</answer>" for said in ("yes", "no indeed", "2", "\\frac{4}{2}", "B")]
"""What is sampled: right and wrong, and some of it for math-verify or the judge to say."""
JUDGE_FAULTS: dict[str, Any] = {
    "judge: 500": Reply({"error": {"message": "oh"}}, 500),
    "judge: 429": Reply({"error": {"message": "slow"}}, 429, {"Retry-After": "0.1"}),
    "judge: a page": Reply("<html>log in</html>", 200, {"Content-Type": "text/html"}),
    "judge: half a reply": Reply(json.dumps(completion("{}"))[:60]),
    "judge: no choices": completion("{}") | {"choices": []},
    "judge: hangs": Reply(completion("{}"), wait_s=10),
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
KILLED = "comparison killed"
STRIKES = {KILLED, *(sent.name for sent in SIGNALS)}


@dataclass
class Faults:
    """What goes wrong, by a seed, and how often it did.

    Args:
        seed: of all decisions here; which thread asks first is the machine's.
        share: of requests that fail.
        every_s: seconds between what happens to processes, on average.
        lossy: whether processes that compare answers are killed, which costs scores.
        strikes: how often something happens to processes in all, at most; any number of times if not given.
    """

    seed: int
    share: float = 0.05
    every_s: float = 6.0
    lossy: bool = True
    strikes: int | None = None
    counts: Counter[str] = field(default_factory=Counter)
    active: bool = True

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._asked: set[str] = set()

    @property
    def strikes_again(self) -> bool:
        struck = sum(number for kind, number in self.counts.items() if kind in STRIKES)
        return self.active and (self.strikes is None or struck < self.strikes)

    def draw(self, kinds: Sequence[str]) -> str | None:
        """One of the kinds of faults, or none."""
        with self._lock:
            if not self.active or self.random.random() > self.share:
                return None
            kind = self.random.choice(kinds)
            self.counts[kind] += 1
            return kind

    def of_judge(self, request: dict[str, Any], number: int) -> Any:
        """A question's first request may fail; when it is asked again, it is answered."""
        first = (text := user_text(request)) not in self._asked
        self._asked.add(text)
        kind = self.draw(list(JUDGE_FAULTS)) if first else None
        return honest(request) if kind is None else JUDGE_FAULTS[kind]


class SeededSampler(FakeSampler):
    """Completions that follow from a request's seed."""

    def __init__(self, fail: Callable[[], None], texts: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        super().__init__()
        self.on_generate, self.texts = fail, texts

    def _completion(self, request: SampleRequest, n: int) -> Completion:
        text, ids = random.Random(f"{request.seed}/{n}").choice(self.texts)
        return Completion(ids, (-1.0,) * len(ids), text, True, self.version)


class Servers:
    """Two servers at the same addresses, however often they are cut off."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        tokenizer = load_processor(resolve("toy:base"), takes_images=True).tokenizer
        ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS)
        self.texts = [(text, tuple(of_text)) for text, of_text in zip(TEXTS, ids, strict=True)]
        self.running = [self._start(0) for _ in range(2)]
        self.urls = [server.url for server in self.running]

    def _start(self, port: int) -> FakeServer:
        server = FakeServer(Path(resolve("toy:base")), port)
        sampler = SeededSampler(lambda: self._fail(server), self.texts)
        server.sampler = server.batch.sampler = server.served.sampler = sampler  # type: ignore[assignment]
        return server

    def _fail(self, server: FakeServer) -> None:
        kind = self.faults.draw(["server: 500", "server: stalls", "server: cut off"])
        if kind == "server: 500":
            raise RuntimeError("out of memory")
        if kind == "server: stalls":
            time.sleep(0.5)
        if kind == "server: cut off":
            server.cut()
            threading.Thread(target=self._bring_back, args=(server,), daemon=True).start()

    def _bring_back(self, server: FakeServer) -> None:
        server.stop()
        while True:
            try:
                back = self._start(server.port)
                break
            except OSError:  # the address is still held
                time.sleep(0.1)
        self.running[self.running.index(server)] = back

    def stop(self) -> None:
        for server in self.running:
            server.stop()


def fill_disks(drawn: random.Random, share: float, noted: Path) -> None:
    """From now on some checkpoints of this process find no room."""
    from specs_lightning.modules import checkpoint_files

    atomic = checkpoint_files.atomic

    def without_room(path: Path) -> Any:
        if path.suffix == ".ckpt" and drawn.random() < share:
            with noted.open("a") as file:
                file.write(".")
            path = Path("/dev/full/no-room")
            raise OSError(28, os.strerror(28), str(path))
        return atomic(path)

    checkpoint_files.atomic = without_room  # type: ignore[assignment]


def strike(pair: list[Any], faults: Faults) -> None:
    """Something happens to one of the two processes, or to one that compares answers for it."""
    struck = faults.random.choice(pair)
    workers = [child for child in children(struck.pid) if "math_verify_worker" in " ".join(child.cmdline())]
    if faults.lossy and workers and faults.random.random() < 0.5:
        faults.random.choice(workers).kill()
        faults.counts[KILLED] += 1
    else:
        sent = faults.random.choice(SIGNALS)
        os.kill(struck.pid, sent)
        faults.counts[sent.name] += 1


def children(pid: int) -> list[psutil.Process]:
    try:
        return [child for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.Error:
        return []
