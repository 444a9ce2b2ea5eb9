"""Every name of ours in docs/coming_from.md is a setting that there is."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
from typing import Any

import pytest
from helpers.command_line import ROOT
from lightning.pytorch import Trainer

from specs_lightning import data, modules, objectives, rollout

TEXT = (ROOT / "docs" / "coming_from.md").read_text()
NAME = re.compile(r"`((?:model|data|trainer)\.[\w.]+|seed_everything)\b")
ROOTS: dict[str, list[Any]] = {
    "model": [modules.GRPOModule, modules.ColdStartModule],
    "data": [data.RolloutDataModule, data.PreferenceDataModule],
    "trainer": [Trainer],
}
STANDS_FOR = {
    objectives.ColdStartObjective: objectives,
    objectives.Surrogate: objectives,
    objectives.Advantages: objectives,
    rollout.RolloutEngine: rollout,
}
"""Classes of which a setting takes any, and where they are."""


def make_settings() -> Any:
    spec = importlib.util.spec_from_file_location("make_settings", ROOT / "docs" / "make_settings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = make_settings()


def within(hint: Any) -> list[Any]:
    """The classes that a setting may be of, any that stand for others replaced by these."""
    found: list[Any] = []
    for kind in MAKE._types(hint):
        found += MAKE.exported(STANDS_FOR[kind], kind) if kind in STANDS_FOR else [kind]
    return found


def is_setting(name: str) -> bool:
    root, *parts = name.split(".")
    kinds = ROOTS[root]
    for part in parts:
        hints = [MAKE._hints(kind)[part] for kind in kinds if takes_settings(kind) and part in MAKE._hints(kind)]
        if not hints:
            return False
        kinds = [kind for hint in hints for kind in within(hint)]
    return True


def takes_settings(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or kind is Trainer or kind.__module__.startswith("specs_lightning.")


def ours() -> list[str]:
    """What stands in the first column of the tables, and in the sentences about defaults."""
    rows = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
    sentences = TEXT.partition("## Where our defaults are others")[2]
    return sorted({name for text in [*rows, sentences] for name in NAME.findall(text)})


@pytest.mark.parametrize("name", ours())
def test_a_name_is_a_setting(name: str) -> None:
    assert name == "seed_everything" or is_setting(name)


@pytest.mark.parametrize(
    "name", ["model.policy.lora.r", "data.sampling.n", "model.objective.epsilon", "trainer.epochs"]
)
def test_a_name_of_theirs_would_be_noticed(name: str) -> None:
    assert not is_setting(name)


def test_every_row_has_a_name_of_ours_and_as_many_cells_as_its_table() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        header, _, *rows = table.splitlines()
        assert all(row.count("|") == header.count("|") and NAME.search(row.split("|")[1]) for row in rows)


def test_every_default_that_is_argued_is_ours() -> None:
    said = dict(re.findall(r"`(model\.[\w.]+)` (0\.28|0)\b", TEXT))
    defaults = {field.name: field.default for field in dataclasses.fields(objectives.GRPO)}
    assert said and all(defaults[name.rpartition(".")[2]] == float(value) for name, value in said.items())
    policy = inspect.signature(modules.GRPOModule).parameters["policy"]
    assert policy.default is inspect.Parameter.empty
