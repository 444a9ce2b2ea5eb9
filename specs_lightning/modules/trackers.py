"""W&B, TensorBoard, MLflow and Trackio by name: Lightning's loggers, and one of our own where it has none.

Each keeps its files in the run's folder, has the run's stages as runs of one group (Trackio's project, MLflow's
experiment), and gets the settings and the samples beside the figures. `metrics.csv` is there in any case, and has each
figure once: with a tracker, steps that are done again after a stop appear again.
"""

from __future__ import annotations

import base64
import io
import json
import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import PIL.Image
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from specs_lightning.records.samples import Sample
from specs_lightning.records.trackers import TRACKERS
from specs_lightning.settings.nested import flatten
from specs_lightning.settings.trackers import Tracker

PROJECT = "specs-lightning"
COLUMNS = ("step", "prompt_id", "prompt", "image", "answer", "completion", "reward", "rewards")
SAMPLES = "samples"


@dataclass(frozen=True)
class Place:
    """What a training is called, and where its trackers' files are.

    Args:
        folder: that of its run, or its own.
        group: what the stages of a run have in common.
        name: of this stage.
        run_id: what the tracker has called its run of this training before; None of a new one.
    """

    folder: Path
    group: str
    name: str
    run_id: str | None


class TrackioLogger(Logger):
    """Trackio, which is called as W&B is."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        os.environ.setdefault("TRACKIO_DIR", str(place.folder.absolute() / "trackio"))  # read when it is imported
        self.place = place
        self.run: Any = None

    @property
    def name(self) -> str:
        return self.place.group

    @property
    def version(self) -> str:
        return str(self.run.name) if self.run else ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Trackio takes them with the beginning of a run."""
        self._begin(dict(flatten(params)))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        self.send({name: float(value) for name, value in metrics.items()}, step)

    def send(self, values: Mapping[str, Any], step: int | None) -> None:
        self._begin({})
        self.run.log(dict(values), step=step)

    def finish(self) -> None:
        if self.run is not None:
            self.run.finish()
            self.run = None

    def _begin(self, settings: dict[str, Any]) -> None:
        import trackio

        if self.run is None:
            name, resume = self.place.run_id or self.place.name, "allow" if self.place.run_id else "never"
            self.run = trackio.init(project=self.place.group, name=name, config=settings, resume=resume)


def _wandb(place: Place) -> Logger:
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    return WandbLogger(place.name, place.folder, project=project, group=place.group, id=place.run_id)


def _tensorboard(place: Place) -> Logger:
    folder = place.folder / "tensorboard"
    names = (f"{place.name}-{number}" if number else place.name for number in count())
    version = place.run_id or next(name for name in names if not (folder / name).exists())
    return TensorBoardLogger(place.folder, name=folder.name, version=version)


def _mlflow(place: Place) -> Logger:
    folder = place.folder.absolute()
    return MLFlowLogger(
        experiment_name=place.group,
        run_name=place.name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}"),
        artifact_location=None if "MLFLOW_TRACKING_URI" in os.environ else (folder / "mlflow").as_uri(),
        run_id=place.run_id,
    )


MADE_BY: dict[Tracker, Callable[[Place], Logger]] = {
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "trackio": TrackioLogger,
    "wandb": _wandb,
}


def make_trackers(names: Sequence[Tracker], folder: Path, run_dir: Path | None, goes_on: bool) -> dict[str, Logger]:
    """Trackers of the training in `folder`, which may be a stage of a run; where it goes on, so do their runs."""
    known = (TRACKERS.read(folder) or {}) if goes_on else {}
    of_run = (run_dir or folder).resolve()
    return {name: MADE_BY[name](Place(of_run, of_run.name, folder.resolve().name, known.get(name))) for name in names}


@contextmanager
def tracking(trackers: Mapping[str, Logger], folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """While a training lasts: its trackers are told the settings, and their runs noted in `folder`, then ended."""
    if trackers and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        known = TRACKERS.read(folder) or {}
        for name, logger in trackers.items():
            if known.get(name) is None or logger.version != known[name]:  # one that goes on has them
                logger.log_hyperparams(dict(settings))
        TRACKERS.write(folder, {name: str(logger.version) for name, logger in trackers.items()})
    try:
        yield
    finally:
        for logger in trackers.values():
            _finish(logger)


def _finish(logger: Logger) -> None:
    """End its run by hand: a stage's process ends without the libraries' own endings."""
    if isinstance(logger, TrackioLogger):
        logger.finish()
    elif isinstance(logger, WandbLogger):
        import wandb

        if wandb.run is not None:
            wandb.finish()


def send_samples(loggers: Sequence[Logger], samples: Sequence[Sample], step: int) -> None:
    """Send prompts with their images and completions to those that have a place for them, as a table or as files."""
    for logger in loggers:
        match logger:
            case WandbLogger():
                import wandb

                logger.log_table(SAMPLES, list(COLUMNS), _rows(samples, wandb.Image), step=step)
            case TrackioLogger():
                import pandas
                import trackio

                table = pandas.DataFrame(_rows(samples, trackio.Image), columns=list(COLUMNS))
                logger.send({SAMPLES: trackio.Table(dataframe=table)}, step)
            case TensorBoardLogger():
                _to_tensorboard(logger.experiment, samples, step)
            case MLFlowLogger():
                _to_mlflow(logger.experiment, str(logger.run_id), samples, step)


def _rows(samples: Sequence[Sample], shown: Callable[[PIL.Image.Image], Any]) -> list[list[Any]]:
    """A row of `COLUMNS` for each completion, the images as a tracker shows them."""
    return [
        [*asked, picture and shown(picture), one.answer, text.text, text.reward, json.dumps(text.rewards)]
        for one in samples
        for asked, picture in [((one.step, one.prompt_id, one.prompt), side_by_side(one.images))]
        for text in one.completions
    ]


def _to_tensorboard(writer: Any, samples: Sequence[Sample], step: int) -> None:
    import numpy as np

    for number, one in enumerate(samples):
        said = [f"reward {text.reward}:\n\n```\n{text.text}\n```" for text in one.completions]
        writer.add_text(f"{SAMPLES}/{number}", "\n\n".join([one.prompt, *said]), step)
        if (picture := side_by_side(one.images)) is not None:
            writer.add_image(f"{SAMPLES}/{number}", np.asarray(picture), step, dataformats="HWC")


def _to_mlflow(client: Any, run_id: str, samples: Sequence[Sample], step: int) -> None:
    def kept(picture: PIL.Image.Image) -> str:
        file = f"{SAMPLES}/{step}-{next(numbers)}.png"
        client.log_image(run_id, picture, file)
        return file

    numbers = count()
    rows = _rows(samples, kept)
    client.log_table(run_id, {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}, f"{SAMPLES}.json")


def side_by_side(images: Sequence[str]) -> PIL.Image.Image | None:
    """The images of a prompt, PNGs in base64, as one; None without any."""
    if not images:
        return None
    pictures = [PIL.Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB") for image in images]
    joined = PIL.Image.new("RGB", (sum(one.width for one in pictures), max(one.height for one in pictures)))
    left = 0
    for one in pictures:
        joined.paste(one, (left, 0))
        left += one.width
    return joined
