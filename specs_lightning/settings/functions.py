"""Functions as commands: their arguments from files and overrides, as their signatures and docstrings say."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace

from specs_lightning.errors import SettingsError, refused_settings
from specs_lightning.settings.hints import HintingParser
from specs_lightning.settings.yaml_files import merged

_OVERRIDE = re.compile(r"--stages\.([^.=]+)\.overrides(?:\.([^=]+))?(?:=(.*))?", re.DOTALL)


def function_settings(
    function: Callable[..., Any],
    args: Sequence[str],
    *further: type,
    name: str | None = None,
    positional: str | None = None,
    listed: str | None = None,
    takes_files: bool = True,
) -> dict[str, Any]:
    """A function's arguments from files and overrides, made; those of `further` classes stand beside them as given.

    Args:
        further: dataclasses whose fields are settings, too.
        name: of the command; the function's if not given.
        positional: an argument that is given without its name.
        listed: one that is a list given so: what a shell makes of `*.yaml`.
        takes_files: whether `--config` names files of settings; otherwise it is an argument like any other.
    """
    name = name or function.__name__
    parser = HintingParser(prog=f"specs {name}", description=(function.__doc__ or "").split("\n")[0])
    if takes_files:
        parser.add_argument("--config", action=ActionConfigFile, help="A YAML file of settings; several may be given.")
    else:  # several are a list
        args = [f"--config+{arg[8:]}" if arg.partition("=")[0] == "--config" else arg for arg in args]
    if listed:
        parser.add_argument(listed, nargs="+", type=str, help="Configuration files and folders of finished runs.")
    skip: set[str | int] = {listed} if listed else set()
    parser.add_function_arguments(function, as_positional=positional is not None, sub_configs=True, skip=skip)
    for settings_class in further:
        parser.add_class_arguments(settings_class)
    of_stages = "stages" in inspect.signature(function).parameters
    args, given = stage_overrides(args) if of_stages else (list(args), {})
    if given:
        without = [arg for arg in args if not arg.startswith("--print_config")]  # which would end the program here
        args += _on_top(parser.parse_args(without).stages, given)
    config = parser.parse_args(args)
    if takes_files:
        config.pop("config", None)
    # A stage's overrides are for another parser: a class path in them is not an object yet.
    overrides = {name: stage.pop("overrides") for name, stage in (config.stages if of_stages else {}).items()}
    with refused_settings():
        settings: dict[str, Any] = vars(parser.instantiate(config))
        for name, override in overrides.items():
            settings["stages"][name] = replace(settings["stages"][name], overrides=as_plain(override))
    return settings


def stage_overrides(args: Sequence[str]) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    """The other arguments, and what these set of each stage's overrides: all in one or one by its dotted name."""
    rest: list[str] = []
    given: dict[str, list[dict[str, Any]]] = {}
    remaining = iter(args)
    for arg in remaining:
        if (found := _OVERRIDE.fullmatch(arg)) is None:
            rest.append(arg)
            continue
        stage, name, text = found.groups()
        value = _value(arg, next(remaining, None) if text is None else text)
        if name is None and not isinstance(value, dict):
            raise SettingsError(f"stages.{stage}.overrides: expected settings by name, got {value!r}")
        given.setdefault(stage, []).append(value if name is None else {name: value})
    return rest, given


def _value(arg: str, text: str | None) -> Any:
    if text is None:
        raise SettingsError(f"{arg}: expected a value")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{arg.partition('=')[0]}: not YAML: {text}") from error


def _on_top(stages: dict[str, Any], given: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Arguments for the stages' overrides with those that were given: the others are kept, null removes one."""
    if unknown := set(given) - set(stages):
        there = f"there are: {', '.join(stages)}"
        raise SettingsError(f"overrides of stages that there are not: {', '.join(unknown)}; {there}")
    whole = {name: reduce(merged, layers, as_plain(stages[name].overrides)) for name, layers in given.items()}
    return [f"--stages.{name}.overrides={json.dumps(overrides)}" for name, overrides in whole.items()]


def as_plain(value: Any) -> Any:
    """Namespaces as dictionaries, however deep."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    return [as_plain(item) for item in value] if isinstance(value, list) else value
