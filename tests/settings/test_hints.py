"""Parsers of `specs`: their files extend others, and are of the right command; what is wrong is told in short."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.command_line import refused
from jsonargparse import ActionConfigFile, Namespace

from specs_lightning.settings.hints import HintingParser

SMOKE = ("--config=configs/toy/smoke.yaml",)
GRPO = "configs/toy/grpo.yaml"


@pytest.fixture
def parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HintingParser:
    monkeypatch.chdir(tmp_path)
    parser = HintingParser(prog="specs draw")
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--trainer.rounds", type=int, default=1)
    parser.add_argument("--trainer.kind", type=str, default="thin")
    return parser


def parse(parser: HintingParser, *args: str) -> Namespace:
    parser.args = list(args)
    return parser.parse_args(parser.args)


def test_a_file_is_on_top_of_what_it_extends_and_the_command_line_on_top_of_both(parser: HintingParser) -> None:
    Path("a.yaml").write_text("trainer: {rounds: 2, kind: thick}\n")
    Path("b.yaml").write_text("extends: a.yaml\ntrainer: {rounds: 3}\n")
    found = parse(parser, "--config=b.yaml")
    assert (found.trainer.rounds, found.trainer.kind) == (3, "thick")
    assert parse(parser, "--config=b.yaml", "--trainer.rounds=4").trainer.rounds == 4


def test_a_shortened_name_is_not_guessed(parser: HintingParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(parser, "--trainer.round=5")
    assert capsys.readouterr().err.startswith("specs draw: trainer.round: there is no such setting\nDid you mean")


def test_an_error_has_status_2_and_names_the_command(parser: HintingParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(parser, "--trainer.rounds=x")
    assert exit.value.code == 2
    assert capsys.readouterr().err == "specs draw: trainer.rounds: expected int, got 'x'\n"


def test_a_file_of_settings_that_tell_no_command_is_read(parser: HintingParser) -> None:
    parser.add_argument("--name", type=str)
    Path("a.yaml").write_text("name: a\n")
    assert parse(parser, "--config=a.yaml").name == "a"


def test_a_file_of_another_command_is_not(parser: HintingParser, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("stages: {}\n")
    with pytest.raises(SystemExit):
        parse(parser, "--config=a.yaml")
    assert "a.yaml holds the settings of another command: specs run --config a.yaml" in capsys.readouterr().err


def test_a_runs_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert "evalution" in refused(capsys, "run", *SMOKE, "--evalution.beta=1")
    assert "nowhere" in refused(capsys, "run", *SMOKE, "--evaluation.measure=nowhere")
    assert "missing.yaml" in refused(capsys, "run", "--config=missing.yaml")
    assert "a stage of kind model needs a model" in refused(capsys, "run", *SMOKE, "--stages.base.model=null")
    assert "prompts" in refused(capsys, "distill", "--zero=a", "--base=b", "--output=c")


@pytest.mark.parametrize(
    ("command", "file", "meant"),
    [
        ("run", GRPO, f"specs fit --config {GRPO}"),
        ("distill", GRPO, f"specs fit --config {GRPO}"),
        ("distill", "configs/toy/smoke.yaml", "specs run --config configs/toy/smoke.yaml"),
        ("run", "configs/toy/distill.yaml", "specs distill --config configs/toy/distill.yaml"),
        ("test", "configs/toy/distill.yaml", "specs distill --config configs/toy/distill.yaml"),
        ("compare", GRPO, f"specs fit --config {GRPO}"),
    ],
)
@pytest.mark.bad_input("command lines")
def test_a_file_of_another_command_is_told(
    capsys: pytest.CaptureFixture[str], command: str, file: str, meant: str
) -> None:
    given = file if command == "compare" else f"--config={file}"
    assert f"{file} holds the settings of another command: {meant}" in refused(capsys, command, given)


@pytest.mark.parametrize("command", ["fit", "run", "distill", "plan", "serve"])
@pytest.mark.bad_input("command lines")
def test_a_file_without_config_is_told(capsys: pytest.CaptureFixture[str], command: str) -> None:
    told = refused(capsys, command, "configs/x.yaml")
    assert told.startswith(f"specs {command}: ") and "Did you mean --config configs/x.yaml?" in told
