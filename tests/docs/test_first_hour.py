"""The commands of docs/first_hour.md, in their order and in small: each ends as the page shows."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers.command_line import ROOT, specs
from helpers.whole_runs import WholeRun

from specs_lightning.commands import doctor

PAGE = (ROOT / "docs" / "first_hour.md").read_text()
SHOWN = re.compile(r"```bash\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
FEW_ROUNDS = ["--data.rounds=1", "--data.prompts_per_round=2", "--data.sampling.max_tokens=16"]
SMALL = {
    "fit --config toy/grpo.yaml": FEW_ROUNDS,
    "fit --config toy/cold_start.yaml": ["--data.batch_size=2", "--trainer.max_steps=1"],
    "distill --config toy/distill.yaml": ["--prompts.limit=24"],
    "test --config toy/evaluate.yaml": [
        '--data.evaluation={id: {path: "toy:id", limit: 2}}',
        "--data.evaluation_sampling.max_tokens=16",
    ],
}
"""What is given on top of the documented commands: less of everything."""


def shown() -> list[tuple[list[str], str]]:
    """The commands that `specs` is called with, as a shell would split them, and what is shown of their output."""
    found = [(block.replace("\\\n", " ").strip().splitlines()[-1], output) for block, output in SHOWN.findall(PAGE)]
    return [(shlex.split(line.partition("specs ")[2], comments=True), output) for line, output in found]


def last_line(output: str) -> str:
    """Without numbers, which are others in small."""
    return re.sub(r"\d[\d.,]*", "0", output.strip().splitlines()[-1]).strip()


@pytest.mark.slow
def test_each_command_ends_as_the_page_shows(
    whole_run: WholeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "vllm", lambda: iter(()))  # it takes seconds to import
    shutil.copytree(whole_run.folder, tmp_path / "runs" / "smoke")  # the first command's run, done already
    (tmp_path / "configs" / "toy").mkdir(parents=True)
    shutil.copy(whole_run.config, tmp_path / "configs" / "toy" / "smoke.yaml")
    folder = tmp_path
    for words, output in shown():
        if words[0] == "data":  # the page has gone into the folder of the new project
            folder = tmp_path / "mine"
        capsys.readouterr()
        specs(*words, *SMALL.get(" ".join(words[:3]), []), cwd=folder)
        assert last_line(capsys.readouterr().out) == last_line(output), words


def test_it_shows_the_commands_of_a_first_hour() -> None:
    names = [words[0] for words, _ in shown()]
    assert names == ["run", "doctor", "plan", "fit", "distill", "fit", "test", "init", "data", "fit"]
