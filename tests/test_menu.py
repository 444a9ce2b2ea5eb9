"""The toy trains two steps with every setting of the menu, as it is named on the command line."""

from __future__ import annotations

import csv
import inspect
import math
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.command_line import ROOT, specs
from helpers.small_runs import write_pair_file, write_prompt_file

from specs_lightning import objectives, rewards

LETTERS = "{class_path: helpers.small_runs.Letters}"
"""In which a random policy's completions differ."""
GRPO_MENU = {
    "FunctionReward, init_args: {function: 'tests/test_menu.py:exclaims'}": [
        "surrogate={class_path: Clipped, init_args: {dual_clip: 3}}",
        "advantages=GroupRelative",
    ],
    "SoftOverlongPenalty, init_args: {max_tokens: 6, buffer_tokens: 3}": ["surrogate=CISPO", "advantages=LeaveOneOut"],
    "RepetitionPenalty": ["surrogate=SAPO", "advantages=BatchScaled", "aggregation=sequence"],
    "CosineLengthReward, init_args: {max_tokens: 6}": ["advantages=PerReward", "entropy_coefficient=0.01"],
}
"""A reward each, and settings of the objective."""
SAMPLING_MENU = {
    "top_p": ["top_p=0.9"],
    "top_k": ["top_k=20"],
    "min_p": ["min_p=0.3"],
    "all three": ["top_p=0.95", "top_k=50", "min_p=0.02"],
    "stop texts": ["stop=[e, '!']", "include_stop=true"],
}
PAIR_MENU = ["LengthNormalizedDPO", "IPO", "SimPO", "ORPO", "APOZero", "APODown"]
SHORT = (
    "--data.prompts_per_round=4",
    "--data.steps_per_round=2",
    "--data.rounds=1",
    "--data.sampling.completions_per_prompt=3",
    "--data.sampling.max_tokens=6",
)
"""Two steps of GRPO."""
ELSEWHERE = ["DPO", "SFT", "FormatReward", "AccuracyReward", "ConsistencyReward"]
"""In commands/test_fit.py, and in the toy's own configurations."""


def exclaims(completions: list[Any], answer: list[str], **columns: list[Any]) -> list[float]:
    """In the way of TRL."""
    return [float("!" in c[0]["content"]) + len(gold) for c, gold in zip(completions, answer, strict=True)]


def documented(column: str) -> bool:
    """Whether the page says what a column of `metrics.csv` is."""
    named = re.findall(r"`([a-zA-Z_/]+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"))
    patterns = "|".join(re.escape(name).replace("NAME", ".+") for name in named)
    return re.fullmatch(f"(train/)?({patterns})|step|epoch", column) is not None


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def settings(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["objective"]


def fit(model: Path, folder: Path, config: str, *further: str) -> list[dict[str, str]]:
    """What both steps logged, none of which is left out."""
    specs(
        "fit",
        f"--config=configs/toy/{config}.yaml",
        f"--model.policy.model={model}",
        f"--trainer.default_root_dir={folder}",
        "--trainer.callbacks=[]",
        *further,
    )
    rows = metrics(folder)
    assert len(rows) == 2
    assert [column for column in rows[0] if not documented(column)] == []
    assert all(float(row["train/skipped"]) == 0 and float(row["train/grad_norm"]) > 0 for row in rows)
    return rows


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair_file(tmp_path_factory.mktemp("pairs"), 4)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompt_file(tmp_path_factory.mktemp("prompts"), 4)


@pytest.mark.parametrize("name", GRPO_MENU, ids=lambda name: name.partition(",")[0])
def test_grpo(tiny_model_path: Path, prompts: Path, tmp_path: Path, name: str) -> None:
    reward = f"--data.rewards=[{LETTERS}, {{class_path: specs_lightning.rewards.{name}}}]"
    objective = (f"--model.objective.{setting}" for setting in GRPO_MENU[name])
    fit(tiny_model_path, tmp_path, "grpo", *SHORT, f"--data.train.path={prompts}", reward, *objective)


@pytest.mark.parametrize("name", SAMPLING_MENU)
def test_sampling(tiny_model_path: Path, prompts: Path, tmp_path: Path, name: str) -> None:
    """Truncation is corrected for; what it kept is told of the policy that sampled."""
    cut = name != "stop texts"
    sampling = [f"--data.sampling.{setting}" for setting in SAMPLING_MENU[name]]
    sampling += ["--model.objective.mismatch.kind=truncated"] if cut else []
    source = f"--data.train.path={prompts}"
    rows = fit(tiny_model_path, tmp_path, "grpo", *SHORT, source, f"--data.rewards=[{LETTERS}]", *sampling)
    kept = [float(row["train/kept_probability"] or "nan") for row in rows if cut]
    assert kept == ([pytest.approx(0.5, abs=0.499), pytest.approx(math.nan, nan_ok=True)] if cut else [])
    if not cut:
        assert float(rows[0]["train/completions/clipped_ratio"]) < 1


def test_what_the_chat_template_is_told(switching_model_path: Path, pairs: Path, prompts: Path, tmp_path: Path) -> None:
    told = "--model.policy.chat_template_kwargs={enable_thinking: false}"
    fit(switching_model_path, tmp_path / "pairs", "cold_start", f"--data.train={pairs}", "--data.batch_size=2", told)
    source, reward = f"--data.train.path={prompts}", f"--data.rewards=[{LETTERS}]"
    fit(switching_model_path, tmp_path / "rollouts", "grpo", *SHORT, source, reward, told)
    saved = yaml.safe_load((tmp_path / "rollouts" / "config.yaml").read_text())
    assert saved["model"]["init_args"]["policy"]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("name", PAIR_MENU)
def test_pairs(tiny_model_path: Path, pairs: Path, tmp_path: Path, name: str) -> None:
    rows = fit(
        tiny_model_path,
        tmp_path,
        "cold_start",
        f"--data.train={pairs}",
        "--data.batch_size=2",
        f"--model.objective=specs_lightning.objectives.{name}",
    )
    assert f"train/{name.lower()}_loss" in rows[0]
    assert settings(tmp_path)["class_path"] == f"specs_lightning.objectives.{name}"


def test_the_menu_is_whole() -> None:
    tried = " ".join([*PAIR_MENU, *ELSEWHERE, *GRPO_MENU, *chain(*GRPO_MENU.values())])
    kinds = objectives.Surrogate, objectives.Advantages, objectives.ColdStartObjective, rewards.Reward
    exported = [getattr(package, name) for package in (objectives, rewards) for name in package.__all__]
    offered = [kind for kind in exported if inspect.isclass(kind) and issubclass(kind, kinds)]
    assert {kind.__name__ for kind in offered if not inspect.isabstract(kind) and kind.__name__ not in tried} == set()
