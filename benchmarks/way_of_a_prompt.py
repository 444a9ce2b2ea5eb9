"""Which of the package's files a prompt passes, and in which forms: as a row, in a round and in a step of GRPO.

    python benchmarks/way_of_a_prompt.py

Runs the toy on the CPU under `sys.setprofile`. A file counts when one of its functions is entered; a form is a
dataclass or named tuple of the package of which one is made. The rows are read in the data module's `setup`, the round
begins when the loader is asked for its first batch and ends when it gives one, the step is `training_step` on that
batch. Files are listed in the order in which they are first entered.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer

import specs_lightning
from specs_lightning.data import RolloutDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.groups import GroupBatch
from specs_lightning.modules import GRPOModule
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.rollout import SamplingSettings

PACKAGE = Path(specs_lightning.__file__).parent


class Way:
    """What was entered and made, in this order."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.forms: dict[str, None] = {}

    @contextmanager
    def followed(self) -> Iterator[None]:
        sys.setprofile(self._on_event)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE):
            self.files.setdefault(str(file.relative_to(PACKAGE)))
        elif frame.f_code.co_name == "__init__" and file.name == "<string>":  # written by `dataclass`
            self._add_form(type(frame.f_locals["self"]))
        elif "_cls" in frame.f_locals:  # written by `NamedTuple`
            self._add_form(frame.f_locals["_cls"])

    def _add_form(self, kind: type) -> None:
        if kind.__module__.startswith(specs_lightning.__name__):
            self.forms.setdefault(kind.__name__)


WAYS = {"rows": Way(), "round": Way(), "step": Way()}


class FollowedData(RolloutDataModule):
    """Follows the rows, and the first round."""

    def setup(self, stage: str) -> None:
        with WAYS["rows"].followed():
            super().setup(stage)

    def train_dataloader(self) -> Iterable[GroupBatch]:
        return FollowedLoader(super().train_dataloader())


class FollowedLoader:
    """Of a single batch."""

    def __init__(self, loader: Iterable[GroupBatch]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[GroupBatch]:
        with WAYS["round"].followed():
            batch = next(iter(self.loader))
        yield batch


class FollowedModule(GRPOModule):
    """Follows the first step."""

    def training_step(self, batch: GroupBatch, batch_idx: int) -> None:
        with WAYS["step"].followed():
            super().training_step(batch, batch_idx)


def main() -> None:
    module = FollowedModule(PolicySettings("toy:base"))
    data = FollowedData(
        PromptSource("toy:id", limit=8), sampling=SamplingSettings(2, 16), prompts_per_round=2, steps_per_round=1
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, datamodule=data)
    for name, way in WAYS.items():
        print(f"{name}: {len(way.files)} files: {', '.join(way.files)}")
        print(f"{name}: {len(way.forms)} forms: {', '.join(way.forms)}")


if __name__ == "__main__":
    main()
