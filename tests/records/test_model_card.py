"""The card of a model says what the files of its training say, and nothing that they do not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from specs_lightning.records.model_card import model_card, renew_card
from specs_lightning.records.results import RESULTS, EvaluationSet, ModelScores, Results, SetScores
from specs_lightning.records.run import RUN, STAGE, RunRecord, StageRecord


def settings(model: str = "org/base", train: Any = "rows.jsonl") -> dict[str, Any]:
    return {"model": {"init_args": {"policy": {"model": model}}}, "data": {"init_args": {"train": train}}}


def header(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def stage(name: str, kind: str, model: str | None) -> StageRecord:
    return StageRecord(stage=name, kind=kind, status="finished", fingerprint="", settings={}, model=model)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a base and a final stage."""
    RUN.write(tmp_path, RunRecord("r", stages=("base", "final")))
    STAGE.write(tmp_path / "base", stage("base", "evaluate", "toy:base"))
    STAGE.write(tmp_path / "final", stage("final", "fit", "r/final/model"))
    scores = SetScores(n=50, solved=0.4, intervals={"solved": (0.28, 0.54)})
    models = ModelScores("base", "base"), ModelScores("final", "final", {"id": scores}, generalization_factor=0.25)
    RESULTS.write(tmp_path, Results(sets=(EvaluationSet("id", True),), models=models))
    return tmp_path


def test_it_says_base_data_stages_scores_with_intervals_settings_and_versions(run: Path) -> None:
    card = model_card(run / "final", settings(train={"path": "org/rows"}), run=run)
    assert "# final" in card and "from `org/base` on `org/rows`" in card
    assert "| `base` | evaluate | `toy:base` |\n| `final` | fit | `r/final/model` |\n" in card
    assert "| `id` | 50 | – | 40.0 (28.0 to 54.0) | – |" in card
    assert "Generalization Factor over the run's base: 0.250." in card
    assert "```yaml\nmodel:\n  init_args:" in card and "- transformers 5" in card


def test_the_base_of_the_header_is_a_name_on_the_hub_and_the_licence_is_left_to_the_user(tmp_path: Path) -> None:
    assert header(model_card(tmp_path, settings()))["base_model"] == "org/base"
    for other in ("toy:base", "runs/toy/zero/model", str(tmp_path)):
        assert "base_model" not in header(model_card(tmp_path, settings(other)))
    assert "license" not in header(model_card(tmp_path, settings()))


def test_revisions_are_told(tmp_path: Path) -> None:
    given = settings(train={"path": "hf:org/rows", "revision": "1a2b"})
    given["model"]["init_args"]["policy"]["revision"] = "c0ffee"
    card = model_card(tmp_path, given)
    assert "from `org/base@c0ffee` on `hf:org/rows@1a2b`" in card and header(card)["base_model"] == "org/base"


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    card = model_card(tmp_path, {})
    assert "Trained with specs-lightning.\n" in card
    assert not {"## Stages", "## Scores", "## Settings"} & set(card.splitlines())
    assert "None" not in card.replace("None is stated here", "")


def test_a_name_cannot_break_out_of_its_place(tmp_path: Path) -> None:
    card = model_card(tmp_path, settings("a`b|c\n# d", "```"))
    assert "\n# d" not in card.replace(card[card.index("## Settings") :], "")
    assert "`` a`b\\|c # d ``" in card and "````yaml\n" in card


@pytest.mark.parametrize("name", ["# b", "[a](http://host.invalid)", "<img src=x>", "a|b", "**a**", "`a", "a\nb"])
def test_a_stages_name_is_no_markup_of_the_card(tmp_path: Path, name: str) -> None:
    STAGE.write(tmp_path, stage(name, name, None))
    heading = next(line for line in model_card(tmp_path, {}).splitlines() if line.startswith("# "))
    unescaped = re.sub(r"\\(.)", "", heading[2:])
    assert not set("#[]()<>|*`") & set(unescaped)
    assert re.sub(r"\\(.)", r"\1", heading[2:]) == name.replace("\n", " ")


def test_that_of_a_stage_is_written_again_with_what_its_run_found_out(run: Path) -> None:
    final = run / "final"
    (final / "config.yaml").write_text(yaml.safe_dump({**settings(), "trainer": {"devices": 1}}))
    renew_card(final, run)
    assert not (final / "model").exists()
    (final / "model").mkdir()
    (final / "model" / "README.md").write_text(model_card(final, settings()))
    assert "## Scores" not in (final / "model" / "README.md").read_text()
    renew_card(final, run)
    card = (final / "model" / "README.md").read_text()
    assert "40.0 (28.0 to 54.0)" in card and "trainer" not in card
