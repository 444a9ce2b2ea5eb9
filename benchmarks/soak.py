"""Trains on two processes, with rollout servers, a judge and rounds drawn ahead, while all that can fail does so at
random; and compares what was trained on with a training that nothing disturbed.

    python benchmarks/soak.py [--minutes 60] [--seed 0]

Faults come from outside, by a seeded injector: servers fail, stall, are cut off and come back without weights; the
judge answers with errors, pages, halves and not at all; processes that compare answers are killed; disks are full when
a checkpoint is saved; one of the two processes gets SIGKILL, SIGTERM, SIGUSR1 or SIGINT. A training that ends is
started again by the same command (`--ckpt_path last`); one that is complete is compared, and the next begins.

Servers are the real HTTP application around a sampler that makes completions of a request's seed: whoever answers, the
same request has the same answer. So whatever was disturbed, each step must have had the same groups, once each, with
the same rewards; and where no score was lost (to a killed comparison), all logged figures and the model must be the
same.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.faults import Faults, Servers, fill_disks, strike  # noqa: E402
from helpers.judge_servers import JudgeServer  # noqa: E402
from helpers.vllm_servers import SECRET  # noqa: E402

TIMES = ("train/draw_seconds", "train/wait_seconds", "train/round_seconds")
MIB = 2**20


def arguments(folder: Path, urls: list[str], judge: str, rounds: int) -> list[str]:
    """Of `specs fit`."""
    engine = {
        "class_path": "specs_lightning.rollout.VLLMServers",
        "init_args": {"urls": urls, "timeout_s": 20, "start_timeout_s": 60},
    }
    asked = {"model": "judge-1", "base_url": judge, "cache": str(folder / "judge.sqlite"), "timeout_seconds": 2}
    kept = [
        {"class_path": "specs_lightning.callbacks.Checkpoints", "init_args": {"every_n_steps": 2}},
        {
            "class_path": "specs_lightning.callbacks.SampleTable",
            "init_args": {"every_n_steps": 1, "groups": 1000, "completions": 1000},
        },
        {"class_path": "specs_lightning.callbacks.ExportHF"},
    ]
    data = {
        "train": {"path": "toy:train", "limit": 200},
        "sampling": {"completions_per_prompt": 4, "max_tokens": 64},
        "prompts_per_round": 8,
        "steps_per_round": 1,
        "rounds": rounds,
        "prefetch_rounds": 1,
        "max_unscored_share": 1.0,
    }
    return [
        "fit",
        f"--config={ROOT / 'configs/toy/grpo.yaml'}",
        "--model.objective.mismatch={kind: truncated}",
        *(f"--data.{name}={json.dumps(value)}" for name, value in {**data, "engine": engine, "judge": asked}.items()),
        f"--trainer.callbacks={json.dumps(kept)}",
        f"--trainer.default_root_dir={folder / 'run'}",
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--ckpt_path=last",
    ]


def attempt(rank: int, port: int, folder: Path, args: list[str], disk: tuple[int, float]) -> None:
    """One of a training's two processes; what it says goes to a file of its own."""
    log = (folder / f"{rank}.log").open("ab", buffering=0)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    found_by = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "soak"}
    os.environ.update({name: str(value) for name, value in (place | found_by).items()})
    os.environ.update({"SPECS_SERVER_TOKEN": SECRET, "TMPDIR": str(folder / "tmp")})
    from specs_lightning.cli import main

    fill_disks(random.Random(f"{disk[0]}/{rank}"), disk[1], folder / "full_disks")
    main(args)


def forking() -> Any:
    """Processes that have imported everything."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["specs_lightning.runs.warm", "specs_lightning.commands.fit"])
    return context


@dataclass
class Training:
    """One training, to its end: in how many attempts, how each of them ended, and the most that a process held."""

    folder: Path
    attempts: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    peak_mib: float = 0.0
    most_files: int = 0

    def go_through(self, args: list[str], faults: Faults, patience: int = 60) -> None:
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        while self.attempts < patience:
            self.attempts += 1
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            disk = (faults.seed * 1000 + self.attempts, faults.share / 2 if faults.active else 0.0)
            pair = [forking().Process(target=attempt, args=(rank, port, self.folder, args, disk)) for rank in (0, 1)]
            for process in pair:
                process.start()
            self._watch(pair, faults)
            self.endings[str([process.exitcode for process in pair])] += 1
            if all(process.exitcode == 0 for process in pair):
                return
        raise SystemExit(f"not complete after {patience} attempts; see {self.folder}")

    def _steps(self) -> int:
        """How many are there, by the size of what each of them adds to."""
        samples = self.folder / "run" / "samples.jsonl"
        return samples.stat().st_size if samples.exists() else 0

    def _watch(self, pair: list[Any], faults: Faults) -> None:
        """Until both have ended. Most strikes come after a step, so that a training gets on, and some at any time."""
        begun, early = self._steps(), faults.random.random() < 0.2
        due, given_up = None, None
        while any(process.is_alive() for process in pair):
            time.sleep(0.1)
            self._measure(pair)
            if due is None and (early or self._steps() > begun):
                due = time.monotonic() + faults.random.expovariate(1 / faults.every_s)
            both = all(process.is_alive() for process in pair)
            if faults.strikes_again and both and due is not None and time.monotonic() > due:
                strike(pair, faults)
                begun, early, due = self._steps(), False, None
            if given_up is None and not both:
                given_up = time.monotonic() + 15  # the other finishes its step, or finds that it is alone
            if given_up is not None and time.monotonic() > given_up:
                for process in pair:
                    process.kill()

    def _measure(self, pair: list[Any]) -> None:
        for process in pair:
            try:
                watched = psutil.Process(process.pid)
                self.peak_mib = max(self.peak_mib, watched.memory_info().rss / MIB)
                self.most_files = max(self.most_files, watched.num_fds())
            except psutil.Error:
                continue


@dataclass(frozen=True)
class Trained:
    """What a training left: its groups by step, its figures by step, and its model."""

    groups: dict[int, list[str]]
    figures: dict[int, dict[str, str]]
    model: bytes
    files: frozenset[str]

    @classmethod
    def read(cls, folder: Path) -> Trained:
        run = folder / "run"
        groups: dict[int, list[str]] = {}
        for line in (run / "samples.jsonl").read_text().splitlines():
            row = json.loads(line)
            texts = [one["text"] for one in row["completions"]]
            groups.setdefault(row["step"], []).append(json.dumps([row["prompt_id"], texts]))
        with (run / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        figures = {int(row["step"]): {k: v for k, v in row.items() if compared(k)} for row in rows}
        if len(figures) != len(rows):
            raise SystemExit(f"{run / 'metrics.csv'} has steps twice")
        files = frozenset(str(file.relative_to(run)) for file in run.rglob("*") if file.is_file())
        return cls(groups, figures, (run / "model" / "model.safetensors").read_bytes(), files)

    @property
    def unscored(self) -> list[int]:
        """The steps in which a score was lost."""
        return [step for step, row in self.figures.items() if float(row["train/unscored"])]


def compared(name: str) -> bool:
    """Whether a figure follows from what was trained on: not from the clock, nor from how often a judge was asked."""
    return name not in TIMES and "judge/" not in name and name != "step"


@dataclass
class Found:
    """What came of all trainings."""

    trainings: list[Training] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    steps: int = 0
    unscored: int = 0
    differing: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)

    def add(self, training: Training, expected: Trained, faults: Faults) -> None:
        trained, name = Trained.read(training.folder), training.folder.name
        self.trainings.append(training)
        self.faults += faults.counts
        if (full := training.folder / "full_disks").exists():
            self.faults["disk full"] += len(full.read_text())
        for step, wanted in expected.groups.items():
            had = Counter(trained.groups.get(step, []))
            self.lost += (Counter(wanted) - had).total()
            self.doubled += (had - Counter(wanted)).total()
        self.steps += len(trained.figures)
        self.unscored += len(trained.unscored)
        self.differing += [f"{name}: {what}" for what in differences(trained, expected)]
        self.left_behind += [f"{name}: {file}" for file in sorted(trained.files ^ expected.files)]
        self.left_behind += [f"{name}: {file.name}" for file in (training.folder / "tmp").iterdir()]


def differences(trained: Trained, expected: Trained) -> list[str]:
    """Of figures and model: all, up to the first step in which a score was lost; of rewards also in those after."""
    first = min(trained.unscored, default=None)
    found = [] if trained.figures.keys() == expected.figures.keys() else ["the steps"]
    for step, row in trained.figures.items():
        whole = first is None or step < first
        names = [k for k in row if whole or (k.startswith("train/reward") and step not in trained.unscored)]
        found += [f"step {step}, {k}" for k in names if row[k] != expected.figures.get(step, {}).get(k)]
    if first is None and trained.model != expected.model:
        found.append("the model")
    return found


def soak(folder: Path, seconds: float, seed: int, rounds: int, most: int | None = None, **settings: Any) -> Found:
    """Train without a fault, then with them until the time is over, each time to the end; `most` trainings at most."""
    calm = Faults(seed, active=False)
    servers = Servers(calm)
    judge = JudgeServer(lambda request, number: servers.faults.of_judge(request, number))
    until, found = time.monotonic() + seconds, Found()
    try:
        alone = Training(folder / "alone")
        alone.go_through(arguments(alone.folder, servers.urls, judge.url, rounds), calm)
        expected = Trained.read(alone.folder)
        while not found.trainings or (time.monotonic() < until and len(found.trainings) < (most or sys.maxsize)):
            servers.faults = faults = Faults(seed + len(found.trainings), **settings)
            training = Training(folder / f"disturbed-{len(found.trainings) + 1}")
            training.go_through(arguments(training.folder, servers.urls, judge.url, rounds), faults)
            found.add(training, expected, faults)
            tell(found)
    finally:
        judge.stop()
        servers.stop()
    return found


def tell(found: Found) -> None:
    """The newest training in a line, as it ends."""
    last, own = found.trainings[-1], psutil.Process().memory_info().rss / MIB
    held = f"{last.peak_mib:.0f} MiB, {last.most_files} files; servers and judge {own:.0f} MiB"
    print(f"{last.folder.name}: {last.attempts} attempts, {dict(last.endings)}; {held}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="where the trainings stay; a temporary one if not given")
    args = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        found = soak(args.folder or Path(temporary), 60 * args.minutes, args.seed, args.rounds)
    attempts = sum(training.attempts for training in found.trainings)
    print(f"{(time.monotonic() - begun) / 60:.0f} min, {len(found.trainings)} trainings in {attempts} attempts")
    print(f"{found.steps} steps, {found.unscored} with scores lost; groups lost {found.lost}, doubled {found.doubled}")
    for kind, times in found.faults.most_common():
        print(f"  {times:4} {kind}")
    print(f"differing: {', '.join(found.differing) or 'nothing'}")
    print(f"left behind: {', '.join(found.left_behind) or 'nothing'}")
    if found.lost or found.doubled or found.differing or found.left_behind:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
