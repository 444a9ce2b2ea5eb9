"""Stand-ins for the packages of trackers, which note what they are called with, as those call it that use them."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from itertools import count
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PACKAGES = ("mlflow", "tensorboard", "trackio", "wandb")


class Notes:
    """What was called, in order: of which tracker, what, and with which values."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, Any]] = []

    def add(self, tracker: str, what: str, values: Any) -> None:
        self.all.append((tracker, what, values))

    def of(self, tracker: str, what: str) -> list[Any]:
        return [values for one, called, values in self.all if (one, called) == (tracker, what)]


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Notes:
    """Put all four in the places of the packages."""
    notes = Notes()
    modules = _wandb(notes) | _trackio(notes) | _mlflow(notes) | _tensorboard(notes)
    for name, one in modules.items():
        one.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, one)
    for place in (
        "pytorch.loggers.wandb._WANDB",
        "pytorch.loggers.mlflow._MLFLOW",
        "fabric.loggers.tensorboard._TENSORBOARD",
    ):
        monkeypatch.setattr(f"lightning.{place}_AVAILABLE", True)
    return notes


def module(name: str, **content: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(content)
    return made


class Shown:
    """An image or a table as a tracker has it."""

    def __init__(self, *args: Any, **content: Any) -> None:
        self.args, self.content = args, content


def _wandb(notes: Notes) -> dict[str, ModuleType]:
    numbers = count(1)

    class Run:
        def __init__(self, id: str) -> None:
            self.id = id
            self.config = SimpleNamespace(update=lambda params, **_: notes.add("wandb", "config", params))
            self.log = lambda values: notes.add("wandb", "log", values)
            self.define_metric = lambda *args, **_: None

    def init(**settings: Any) -> Run:
        notes.add("wandb", "init", settings)
        wandb.run = Run(settings["id"] or f"w{next(numbers)}")
        return wandb.run

    def finish() -> None:
        notes.add("wandb", "finish", wandb.run.id)
        wandb.run = None

    wandb: Any = module("wandb", run=None, init=init, finish=finish, Image=Shown, Table=Shown)
    return {
        "wandb": wandb,
        "wandb.sdk": module("wandb.sdk"),
        "wandb.sdk.lib": module("wandb.sdk.lib", RunDisabled=type("RunDisabled", (), {})),
        "wandb.wandb_run": module("wandb.wandb_run", Run=Run),
    }


def _trackio(notes: Notes) -> dict[str, ModuleType]:
    names: set[str] = set()

    def init(project: str, name: str, config: dict[str, Any], resume: str) -> Any:
        """As documented: with `never`, a name that is taken is not taken again."""
        notes.add("trackio", "init", {"project": project, "name": name, "config": config, "resume": resume})
        name = f"{name}-new" if resume == "never" and name in names else name
        names.add(name)
        return SimpleNamespace(
            name=name,
            log=lambda values, step: notes.add("trackio", "log", (values, step)),
            finish=lambda: notes.add("trackio", "finish", name),
        )

    return {"trackio": module("trackio", init=init, Image=Shown, Table=Shown)}


def _mlflow(notes: Notes) -> dict[str, ModuleType]:
    numbers = count(1)

    class MlflowClient:
        def __init__(self, uri: str) -> None:
            notes.add("mlflow", "uri", uri)
            self.experiments: dict[str, Any] = {}

        def __getattr__(self, what: str) -> Any:
            return lambda *args, **named: notes.add("mlflow", what, named or args)

        def get_experiment_by_name(self, name: str) -> Any:
            return None

        def create_run(self, experiment_id: Any, tags: dict[str, str]) -> Any:
            notes.add("mlflow", "create_run", tags)
            return SimpleNamespace(info=SimpleNamespace(run_id=f"m{next(numbers)}"))

        def get_run(self, run_id: str) -> Any:
            notes.add("mlflow", "get_run", run_id)
            return SimpleNamespace(info=SimpleNamespace(experiment_id="1"))

    context = module("mlflow.tracking.context", resolve_tags=lambda tags: tags)
    return {
        "mlflow": module("mlflow", set_tracking_uri=lambda uri: None),
        "mlflow.tracking": module("mlflow.tracking", MlflowClient=MlflowClient, context=context),
        "mlflow.tracking.context": context,
        "mlflow.entities": module("mlflow.entities", Param=SimpleNamespace, Metric=SimpleNamespace),
        "mlflow.utils": module("mlflow.utils"),
        "mlflow.utils.mlflow_tags": module("mlflow.utils.mlflow_tags", MLFLOW_RUN_NAME="mlflow.runName"),
    }


def _tensorboard(notes: Notes) -> dict[str, ModuleType]:
    class SummaryWriter:
        def __init__(self, log_dir: str, **settings: Any) -> None:
            notes.add("tensorboard", "writer", log_dir)

        def __getattr__(self, what: str) -> Any:
            return lambda *args, **named: notes.add("tensorboard", what, args)

        def _get_file_writer(self) -> Any:
            return SimpleNamespace(add_summary=lambda *args: notes.add("tensorboard", "add_summary", args))

    def hparams(params: dict[str, Any], metrics: dict[str, Any]) -> tuple[Any, ...]:
        notes.add("tensorboard", "hparams", params)
        return ("experiment", "begin", "end")

    return {
        "tensorboard": module("tensorboard", __version__="2.20.0"),
        "torch.utils.tensorboard": module("torch.utils.tensorboard", SummaryWriter=SummaryWriter),
        "torch.utils.tensorboard.summary": module("torch.utils.tensorboard.summary", hparams=hparams),
    }
