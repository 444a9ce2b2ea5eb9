"""The same questions in every format, and in which one they are answered: a row for each run, rows as a grid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.small_runs import ScriptedEngine, small_trainer, write_pair_file, write_prompt_file

from callbacks.format_transfer import FILE, FormatTransfer, main, written_format
from specs_lightning.data import PreferenceDataModule, PromptSource
from specs_lightning.groups import Prompt
from specs_lightning.modules import ColdStartModule
from specs_lightning.objectives import SFT
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.rollout import SamplingSettings
from specs_lightning.scoring.answer_formats import FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_that_a_response_is_in(name: str) -> None:
    assert written_format(FORMATS[name].write("2 + 2", "4")) == name
    assert written_format("It is 4.") is None
    behind_a_thought = "" if name == "think_answer" else "2 and 2</think>\n"
    text = FORMATS[name].write("2 + 2", "4").removeprefix("<think>" if name == "think_answer" else "")
    assert written_format("<think>\n" + behind_a_thought + text, "<think>\n") == name


def say(prompt: Prompt, seed: str) -> list[str]:
    """JSON is followed by even prompts; anything else is answered in tags."""
    wants_json = prompt.answer_format == "json" and int(prompt.id[1:]) % 2 == 0
    return [FORMATS["json" if wants_json else "think_answer"].write("so", "2")]


def train(model: Path, folder: Path, trained: list[str], **settings: object) -> FormatTransfer:
    """On prompts whose rows name a format of their own."""
    file = write_prompt_file(folder, 4)
    rows = [{**json.loads(line), "answer_format": "boxed"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sampling = SamplingSettings(1, 8)
    engine = ScriptedEngine(say)
    callback = FormatTransfer(PromptSource(str(file)), trained, sampling=sampling, engine=engine, **settings)
    module = ColdStartModule(PolicySettings(str(model)), SFT())
    data = PreferenceDataModule(str(write_pair_file(folder)), batch_size=4)
    small_trainer(folder, callback, max_steps=1).fit(module, datamodule=data)
    return callback


def test_every_format_is_asked_for_and_the_row_is_kept(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_model_path, tmp_path / "one", ["think_answer"])
    row = json.loads((tmp_path / "one" / FILE).read_text())
    assert (row["trained"], row["step"]) == (["think_answer"], 1)
    figures = row["figures"]
    assert {name: figures[f"{name}/kept"] for name in FORMATS} == {
        "think_answer": 1.0,
        "reasoning_solution": 0.0,
        "boxed": 0.0,
        "json": 0.5,
    }
    assert figures["json/as_think_answer"] == 0.5 and figures["boxed/as_think_answer"] == 1.0
    assert figures["think_answer/correct"] == figures["json/correct"] == 1.0

    train(tiny_model_path, tmp_path / "two", ["json", "boxed"], asked=["json"])
    capsys.readouterr()
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    lines = [line.split("│") for line in shown.splitlines()]
    kept = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines if len(cells) > 5}
    assert "kept, by the format asked for" in shown and "correct, by the format asked for" in shown
    assert {"think_answer", "json + boxed"} <= set(kept)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown answer format 'tagz'"):
        FormatTransfer(PromptSource("x.jsonl"), ["tagz"])
    with pytest.raises(ValueError, match="unknown answer format 'tagz'"):
        FormatTransfer(PromptSource("x.jsonl"), ["json"], asked=["tagz"])


def test_a_grid_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no format_transfer\.json in"):
        main([str(tmp_path)])
