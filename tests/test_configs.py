"""Every shipped YAML says how it is run and on what, and fits the signatures that it configures."""

from __future__ import annotations

import re
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import ROOT, working_directory
from jsonargparse import ActionConfigFile, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from specs_lightning.cli import COMMANDS
from specs_lightning.commands.fit import HintingLightningParser, SpecsCLI
from specs_lightning.data.policy_data import PolicyDataModule
from specs_lightning.modules import PolicyModule
from specs_lightning.runs.planned_stages import OUTPUTS, as_argument
from specs_lightning.settings.hints import HintingParser
from specs_lightning.settings.yaml_files import merged, read_settings

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
COMMAND = re.compile(r"#\s+specs (\w+) (.*--config[= ](\S+).*)")
set_parsing_settings(docstring_parse_attribute_docstrings=True)


def commands(file: Path) -> list[tuple[str, str]]:
    """What the comment at the file's start says to run: the command and its arguments."""
    head = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    return [(found[1], found[2]) for line in head if (found := COMMAND.search(line))]


class ParsesOnly(SpecsCLI):
    """A Trainer of eight GPUs cannot be built everywhere."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        for name in ("--ckpt_path", "--base"):  # of commands, which are not run here
            parser.add_argument(name)

    def instantiate_classes(self) -> None:
        pass


def parse_fit(arguments: list[str]) -> None:
    with working_directory(ROOT):
        ParsesOnly(
            PolicyModule,
            PolicyDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            parser_class=HintingLightningParser,
            parser_kwargs={"exit_on_error": False},
            run=False,
            args=arguments,
        )


def parse_function(command: str, arguments: list[str]) -> Any:
    parser = HintingParser(prog=f"specs {command}", exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_function_arguments(COMMANDS[command].function(), sub_configs=True)
    with working_directory(ROOT):
        return parser.parse_args(arguments)


@cache
def parse_once(command: str, arguments: tuple[str, ...]) -> None:
    """Files that extend each other have most of their stages in common."""
    if command in ("run", "distill"):
        parse_function(command, list(arguments))
    else:
        parse_fit(list(arguments))


def parse(command: str, arguments: list[str]) -> None:
    parse_once(command, tuple(arguments))


def test_there_are_some() -> None:
    assert {"grpo", "cold_start", "distill", "smoke", "specs"} <= {file.stem for file in CONFIGS}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: str(file.relative_to(ROOT)))
class TestEach:
    def test_it_starts_with_its_command_and_hardware(self, file: Path) -> None:
        text = file.read_text()
        assert text.startswith("#")
        assert re.search(r"^# Hardware: .*\d", text, re.MULTILINE)
        given = commands(file)
        assert given
        assert f"--config {file.relative_to(ROOT)}" in given[0][1]

    def test_its_commands_fit_the_signatures(self, file: Path) -> None:
        for command, arguments in commands(file):
            parse(command, arguments.split())

    def test_its_stages_fit_theirs(self, file: Path) -> None:
        with working_directory(ROOT):
            stages = read_settings(file).get("stages", {})
        for name, stage in stages.items():
            if stage["kind"] == "model":
                continue
            for output in re.findall(r"\$\{\w+\.(\w+)\}", str(stage)):
                assert output in OUTPUTS
            overrides = [f"--{key}={as_argument(value)}" for key, value in stage.get("overrides", {}).items()]
            arguments = [f"--config={stage['config']}", *overrides]
            if stage["kind"] == "distill":
                parse("distill", [*arguments, "--output=somewhere", "--seed=1"])
            else:
                parse("fit", [*arguments, "--data.seed=1", "--seed_everything=1", f"--trainer.default_root_dir={name}"])


def test_a_setting_that_no_signature_has_would_be_noticed() -> None:
    with pytest.raises(Exception, match="no_such_setting"):
        parse("fit", ["--config=configs/toy/grpo.yaml", "--data.no_such_setting=1"])
    with pytest.raises(Exception, match="no_such_setting"):
        parse("run", ["--config=configs/toy/smoke.yaml", "--evaluation.no_such_setting=1"])


def training(file: Path) -> dict[str, Any]:
    """The settings of a file's first command."""
    _, arguments = commands(file)[0]
    return reduce(merged, [read_settings(ROOT / part) for part in re.findall(r"--config[= ](\S+)", arguments)])


def callback_settings(file: Path) -> dict[str, Any]:
    """Of its GeneralizationFactorCallback; none if it has none."""
    callbacks = training(file).get("trainer", {}).get("callbacks", [])
    found = [c["init_args"] for c in callbacks if c["class_path"].endswith("GeneralizationFactorCallback")]
    return found[0] if found else {}


MEASURED = [
    file
    for file in CONFIGS
    if file.parent.parent == ROOT / "configs"
    and file.parent.name not in ("toy", "ablations")
    and callback_settings(file)
]


def test_final_stages_are_among_those_that_measure() -> None:
    finals = {file for file in CONFIGS if file.stem == "final"}
    assert len(finals) == 4 and finals <= set(MEASURED)


@pytest.mark.parametrize("file", MEASURED, ids=lambda file: str(file.relative_to(ROOT)))
def test_gains_are_over_the_base_which_is_asked_the_same(file: Path) -> None:
    """Γ of a stage that starts from a trained model would otherwise be over that model."""
    callback, base = callback_settings(file), read_settings(file.parent / "base.yaml")
    if "baseline" not in callback:  # its own first answers are the base's
        starts = [settings["model"]["init_args"]["policy"]["model"] for settings in (training(file), base)]
        assert starts[0] == starts[1]
        return
    folder = Path(callback["baseline"]).parent
    assert callback["baseline"] == f"runs/{file.parent.name}/{folder.name}/test_answers.jsonl"
    if folder.name == "base":
        assert base["trainer"]["default_root_dir"] == str(folder)
        assert base["data"]["init_args"]["evaluation_sampling"] == callback["sampling"]
    else:  # of the answers that a further command of the file draws
        text = " ".join(line.removeprefix("#") for line in file.read_text().splitlines())
        longest = callback["sampling"]["max_tokens"]
        asked = rf"--config configs/\S+/base\.yaml .*max_tokens={longest} --trainer\.default_root_dir={folder}"
        assert re.search(asked, text)
    sets = {"id": callback["in_distribution"], **callback["out_of_distribution"]}
    of_base = base["data"]["init_args"]["evaluation"]
    for name, asked_here in sets.items():
        assert of_base[name] | {"limit": 0} == asked_here | {"limit": 0}
        assert of_base[name]["limit"] >= asked_here["limit"]
