"""Functions as commands: their arguments from files and overrides, as their signatures and docstrings say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jsonargparse import ActionConfigFile, Namespace

from specs_lightning.errors import refused_settings
from specs_lightning.settings.hints import HintingParser


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
        function: what is called with them.
        args: of the command line.
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
    config = parser.parse_args(list(args))
    if takes_files:
        config.pop("config", None)
    # A stage's overrides are for another parser: a class path in them is not an object yet.
    overrides = {name: stage.pop("overrides") for name, stage in (config.get("stages") or {}).items()}
    with refused_settings():
        settings: dict[str, Any] = vars(parser.instantiate(config))
        for name, override in overrides.items():
            settings["stages"][name] = replace(settings["stages"][name], overrides=as_plain(override))
    return settings


def as_plain(value: Any) -> Any:
    """Namespaces as dictionaries, however deep."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    return [as_plain(item) for item in value] if isinstance(value, list) else value
