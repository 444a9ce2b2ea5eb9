"""Two processes against one: how far loss, gradients, weights and log-probabilities are apart after a few steps.

    python benchmarks/parity.py

The trainings of `tests/strategies/test_two_processes.py` on a CPU, in float32, with gloo. Each figure is the largest
|a - b| / (1 + |b|) of all numbers of its kind; the tests hold each to within 1e-5.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.small_trainings import STOP, STRATEGIES, TRAININGS, Outcome, Room, differences
from helpers.tiny_models import tiny_qwen2_5_vl
from helpers.two_processes import on_two_processes

COLUMNS = ("loss", "gradients", "weights", "log-probabilities")
Key = tuple[str, ...]


def on_both(room: Room) -> dict[Key, Outcome]:
    return {**room.train_all(), **room.resume_all()}


def row(name: str, how: str, found: dict[str, float]) -> str:
    cells = [f"{found[column]:.1e}" if column in found else "" for column in COLUMNS]
    return f"| {name} | {how} | {' | '.join(cells)} |"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        room = Room.furnished(tiny_qwen2_5_vl(Path(name) / "model"), Path(name))
        alone = room.train_alone()
        pair = on_two_processes(on_both, room.folder / "pair", room, seconds=3600)
        resumed = room.resume_alone()

    def largest(key: Key, after: int = 0) -> dict[str, float]:
        """Of both processes."""
        both = [differences(outcomes[key], alone[key[-1]], after) for outcomes in pair]
        return {column: max(found[column] for found in both) for column in both[0]}

    print(f"| Training | Two processes | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for name in TRAININGS:
        for strategy in STRATEGIES:
            print(row(name, strategy, largest((strategy, name))))
    for key in pair[0]:
        if len(key) == 3:
            print(row(key[2], f"`{key[0]}`, from the checkpoint of one (`{key[1]}`)", largest(key, STOP)))
    for (strategy, writer, name), outcome in resumed.items():
        how = f"one (`{strategy}`), from the checkpoint of two (`{writer}`)"
        print(row(name, how, differences(outcome, alone[name], STOP)))


if __name__ == "__main__":
    main()
