"""Which answer formats does training in some of them carry over to? A row of a grid, trained × asked, for each run.

`python -m callbacks.format_transfer RUN…` puts the rows of several runs together.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from rich.table import Table

from specs_lightning.callbacks import EvaluationCallback, Measured
from specs_lightning.data import PromptSource
from specs_lightning.evaluation import Answered
from specs_lightning.modules import PolicyModule
from specs_lightning.records.answers import Answer
from specs_lightning.scoring.answer_formats import FORMATS, answer_format, read_asked
from specs_lightning.system.terminal import console

FILE = "format_transfer.json"


class FormatTransfer(EvaluationCallback):
    """Asks the same questions in every answer format, and looks in which one they are answered.

    Logs, as `format_transfer/ASKED/…`, the shares of answers that are `correct` in whatever form, that are in the asked
    format (`kept`), and that are in each other one (`as_OTHER`). The latest figures are in `format_transfer.json`
    beside the training's metrics: a row of the grid.

    Args:
        prompts: the questions, whichever format their rows name.
        trained: the formats that the training asks for: the name of the row.
        asked: those to ask for; all if not given.
        settings: `every_n_steps`, `sampling`, `engine` and `batch_size`, as every `EvaluationCallback` has them.
    """

    def __init__(
        self, prompts: PromptSource, trained: list[str], asked: list[str] | None = None, **settings: Any
    ) -> None:
        columns = {**prompts.columns, "answer_format": ""}  # in place of what the rows name
        sets = {name: replace(prompts, answer_format=name, columns=columns) for name in asked or FORMATS}
        for name in trained:
            answer_format(name)
        super().__init__("format_transfer", sets, **settings)
        self.trained = trained

    def begin(self, trainer: Trainer, pl_module: PolicyModule) -> None:
        self.file = Path(trainer.default_root_dir) / FILE if trainer.is_global_zero else None

    def measure(self, answered: dict[str, list[Answered]]) -> Mapping[str, Measured]:
        figures: dict[str, Measured] = {}
        for asked, of_set in answered.items():
            names = dict.fromkeys([asked, *FORMATS])
            written = [_written(one.answer, names) for one in of_set]
            figures[f"{asked}/correct"] = float(self.over_ranks([one.answer.correct for one in of_set]))
            for name in names:
                figure = f"{asked}/kept" if name == asked else f"{asked}/as_{name}"
                figures[figure] = float(self.over_ranks([float(one == name) for one in written]))
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            row = {"trained": self.trained, "step": self.measured_at, "figures": figures}
            self.file.write_text(json.dumps(row, indent=1))
        return figures


def written_format(text: str, opened: str = "", names: Iterable[str] = FORMATS) -> str | None:
    """The format that a response is in, of these, given what of it the chat template opened."""
    return next((name for name in names if read_asked(text, name, opened) is not None), None)


def _written(answer: Answer, names: Iterable[str]) -> str | None:
    return written_format(answer.text, answer.opened, names) if answer.finished else None


def grid(rows: Sequence[Mapping[str, object]], figure: str = "kept") -> Table:
    """Trained × asked, in percent; of runs that trained alike, the mean."""
    sums: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for name, value in row["figures"].items():  # type: ignore[attr-defined]
            asked, _, kind = name.partition("/")
            if kind == figure:
                sums[" + ".join(row["trained"]), asked] += 100 * value  # type: ignore[arg-type]
                counts[" + ".join(row["trained"]), asked] += 1  # type: ignore[arg-type]
    columns = list(dict.fromkeys(asked for _, asked in counts))
    table = Table("trained", *columns, title=f"{figure}, by the format asked for, in percent")
    for trained in dict.fromkeys(trained for trained, _ in counts):
        cells = [(trained, asked) for asked in columns]
        table.add_row(trained, *(f"{sums[cell] / counts[cell]:.1f}" if counts[cell] else "–" for cell in cells))
    return table


def main(folders: Sequence[str]) -> None:
    files = sorted(file for folder in folders for file in Path(folder).rglob(FILE))
    if not files:
        sys.exit(f"no {FILE} in {', '.join(folders) or 'nothing: name the folders of trainings or runs'}")
    rows = [json.loads(file.read_text()) for file in files]
    for figure in ("kept", "correct"):
        console.print(grid(rows, figure))


if __name__ == "__main__":
    main(sys.argv[1:])
