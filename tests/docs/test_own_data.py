"""The commands of docs/own_data.md, as they stand there: those for one's own questions are run."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.command_line import EXPORT_ALONE, ROOT, specs
from test_configs import parse

from specs_lightning.toy import scenes

TEXT = (ROOT / "docs" / "own_data.md").read_text()
SMALL = {
    "check": ["--hold_out=0.4"],  # of 24 rows
    "fit": [
        "--model.policy.model=toy:base",
        "--data.sampling={completions_per_prompt: 2, max_tokens: 16}",
        "--data.prompts_per_round=4",
        "--data.rounds=1",
        "--trainer.accelerator=cpu",
        EXPORT_ALONE,
    ],
    "test": ["--base=toy:base", "--data.evaluation_sampling.max_tokens=16", "--trainer.accelerator=cpu"],
}
"""What is given on top of the documented commands: a model that is here, and less of everything."""


def commands(heading: str) -> list[list[str]]:
    """The `specs` commands under a heading, as a shell would split them."""
    section = TEXT.split(f"## {heading}")[1].split("\n## ")[0]
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL)).replace("\\\n", " ")
    return [
        line[1:] for line in (shlex.split(text, comments=True) for text in blocks.split("\n")) if "specs" in line[:1]
    ]


def write_charts(folder: Path) -> None:
    """As the page has it: questions beside their images."""
    (folder / "images").mkdir(parents=True)
    with (folder / "questions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "image", "answer", "choices"])
        for number, (image, question) in enumerate(scenes.examples(5, 24)):
            (folder / "images" / f"{number}.png").write_bytes(scenes.png(image))
            rows.writerow([question.text, f"images/{number}.png", question.answer, ""])


@pytest.mark.slow
def test_a_csv_becomes_a_trained_model_that_is_scored(tmp_path: Path) -> None:
    write_charts(tmp_path / "charts")
    (settings,) = [block for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL) if "charts" in block]
    (tmp_path / "charts.yaml").write_text(settings)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    given = commands("From a folder of images")
    assert [" ".join(words[:2]) for words in given] == ["data check", "fit --config", "test --config"]
    for words in given:
        specs(*words, *SMALL[words[1] if words[0] == "data" else words[0]], cwd=tmp_path)
    sides = [
        pq.read_table(tmp_path / "data" / part / "charts.parquet")["id"].to_pylist() for part in ("train", "held_out")
    ]
    assert len(sides[0]) + len(sides[1]) == 24 and not set(sides[0]) & set(sides[1])
    model = tmp_path / "runs" / "smolvlm_256m" / "zero" / "model"
    assert (model / "config.json").is_file()
    scores = json.loads((tmp_path / "runs" / "held_out" / "test.json").read_text())
    assert scores["base"] == "toy:base" and set(scores["sets"]) == {
        "id",
        "formats/boxed",
        "formats/json",
        "looks/noisy",
    }
    assert all(of_set["n"] == len(sides[1]) for of_set in scores["sets"].values())
    assert (tmp_path / "runs" / "held_out" / "test.html").is_file()


def test_the_papers_stages_fit_the_signatures() -> None:
    given = [words for words in commands("From the paper's data") if words[0] in ("fit", "distill", "test")]
    stages = ["test", "fit", "distill", "fit", "fit"]  # the first answers what the others are measured against
    assert [words[0] for words in given] == [*stages, "test", *stages]
    for command, *arguments in given:
        parse(command, arguments)
