"""configs/smolvlm_256m/specs.yaml on a tiny random model of SmolVLM-256M's class, and data like Geometry3K."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Sequence, Value
from helpers.command_line import ROOT, specs
from helpers.tiny_families import tiny_family

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.plan.shapes import SHAPES
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.runs.planned_stages import as_argument
from specs_lightning.settings.yaml_files import read_settings
from specs_lightning.toy import scenes

SETTINGS = read_settings(ROOT / "configs" / "smolvlm_256m" / "specs.yaml")
PAGE = (ROOT / "docs" / "first_real_model.md").read_text()
QUESTIONS = {"train": 8, "validation": 4}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set as it is on the hub: its columns and types, one parquet file a split."""
    folder = tmp_path_factory.mktemp("geometry3k")
    kinds = Features({"images": Sequence(Image()), "problem": Value("string"), "answer": Value("string")})
    for seed, (split, size) in enumerate(QUESTIONS.items()):
        asked = [(image, one) for image, one in scenes.examples(seed, 4 * size) if one.answer_type == "number"][:size]
        rows = {
            "images": [[image] for image, _ in asked],
            "problem": [f"<image>{one.text}" for _, one in asked],
            "answer": [one.answer for _, one in asked],
        }
        Dataset.from_dict(rows, kinds).to_parquet(folder / f"{split}.parquet")
    return folder


def here(settings: Any, hub: Path) -> Any:
    """The settings with the data that is here."""
    return json.loads(json.dumps(settings).replace("hf:hiyouga/geometry3k", f"hf:{hub}"))


def test_every_data_set_of_the_run_is_read_by_its_columns(hub: Path) -> None:
    evaluation, stages = here(SETTINGS["evaluation"], hub), here(SETTINGS["stages"], hub)
    sources = [evaluation["in_distribution"], *evaluation["out_of_distribution"].values()]
    sources += [stages["zero"]["overrides"]["data.train"], stages["distill"]["overrides"]["prompts"]]
    for source in sources:
        set_aside = SetAside()
        prompts = load_prompts(PromptSource(**source), set_aside)
        assert len(prompts) == QUESTIONS[source["split"]] and not set_aside.rows
        assert all(len(prompt.images) == 1 and "<image>" not in prompt.text for prompt in prompts)


def test_zero_trains_a_tiny_model_of_the_same_class(hub: Path, tmp_path: Path) -> None:
    model = tiny_family("idefics3", tmp_path / "tiny")
    kind = SHAPES["SmolVLM-256M"]["model_type"]
    assert json.loads((model / "config.json").read_text())["model_type"] == kind == "idefics3"
    stage = here(SETTINGS["stages"]["zero"], hub)
    small = {
        "model.policy.model": str(model),
        "trainer.accelerator": "cpu",
        "trainer.default_root_dir": str(tmp_path / "zero"),
        "data.sampling": {"completions_per_prompt": 2, "max_tokens": 8},
        "data.rounds": 1,
        "data.prompts_per_round": 4,
    }
    overrides = [f"--{name}={as_argument(value)}" for name, value in (stage["overrides"] | small).items()]
    specs("fit", f"--config={stage['config']}", *overrides)
    assert (tmp_path / "zero" / "model" / "model.safetensors").is_file()


def test_the_page_gives_the_run_that_the_configuration_names() -> None:
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^specs .*$", PAGE, re.MULTILINE)]
    assert ["specs", "run", "--config", "smolvlm_256m/specs.yaml"] in commands
    assert SETTINGS["stages"]["base"]["model"] in PAGE and "hiyouga/geometry3k" in PAGE
