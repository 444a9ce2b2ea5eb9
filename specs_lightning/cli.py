"""The command `specs`.

`fit`, `validate`, `test` and `predict` are LightningCLI's, with class paths, several `--config` files and dotted
overrides. `run`, `compare`, `distill`, `plan`, `report` and `serve` stand beside them, on the same configuration files.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, Namespace, auto_cli, set_parsing_settings

from specs_lightning.files import DISK_FULL

COMMANDS = {
    "run": "the whole method, stage by stage, to a report",
    "fit": "one training stage",
    "validate": "score a model on its evaluation sets",
    "test": "the same, as a final test",
    "predict": "answer the evaluation sets' prompts",
    "distill": "make preference pairs from the seed model and the base",
    "compare": "runs over several seeds, beside each other",
    "plan": "what a run will need of memory, and get through, before it is started",
    "doctor": "whether this machine and a model are ready for it",
    "report": "write the report of a run again",
    "data check": "read data sets once: what is in them, and which rows cannot be used",
    "serve": "sample with vLLM for trainings in other processes",
}


STOPPED = 75
"""The exit status after SIGTERM: start again, and it goes on (`EX_TEMPFAIL` of sysexits.h)."""
GOES_ON = {
    "run": "The same command goes on from there.",
    "compare": "The same command goes on from there.",
    "distill": "The same command goes on from there.",
    "fit": "The same command with --ckpt_path last goes on from there.",
}
"""What SIGTERM or a full disk only interrupts, by command."""

HARMLESS_WARNINGS = (
    ".*does not have many workers.*",  # prompts are encoded in this process on purpose
    ".*module\\(s\\) in eval mode.*",  # likewise: see Policy
    ".*LightningCLI's args parameter.*",
    ".*Total length of `list` across ranks is zero.*",  # no validation while training: callbacks evaluate
    ".*exists and is not empty.*",  # a resumed run
    ".*LeafSpec.*",
    "(?s).*no pre-optimization state was saved.*",  # a checkpoint is to hold the state after the step
)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return
    if args[0] == "--version":
        from specs_lightning import __version__

        print(f"specs-lightning {__version__}")
        return
    if args[0] == "data" and args[1:]:
        args = [" ".join(args[:2]), *args[2:]]
    command = args[0]
    if command not in COMMANDS:
        sys.exit(f"specs: unknown command {command!r}\n\n{usage()}")
    # As peft imports it, it misses a kernel on some CPUs: one for inference, which policies never run (`Policy.train`).
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if command == "doctor":
        from specs_lightning.doctor import doctor

        sys.exit(not auto_cli(doctor, args=args[1:], prog="specs doctor"))
    sys.path.insert(0, os.getcwd())  # so that a class_path finds the user's own modules
    prepare_process()
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from specs_lightning.errors import SpecsError

    try:
        with raising_on_sigterm() if command in GOES_ON else nullcontext():
            if command in ("fit", "validate", "test", "predict"):
                fit(args)
            elif command == "plan":
                from specs_lightning.plan import plan

                sys.exit(not plan(args[1:]))
            else:
                run_function(command, args[1:])
    except SIGTERMException:
        print(f"specs {command}: stopped by SIGTERM. {GOES_ON[command]}", file=sys.stderr)
        sys.exit(STOPPED)
    except SpecsError as error:
        if os.environ.get("SPECS_TRACEBACK"):
            raise
        sys.exit(f"specs {command}: {error}\n(SPECS_TRACEBACK=1 shows where)")
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        sys.exit(f"specs {command}: {error}. Make room. {GOES_ON.get(command, '')}")


@contextmanager
def raising_on_sigterm() -> Iterator[None]:
    """Have SIGTERM end what is done here by an exception. A training handles it by itself while it lasts.

    Raises:
        SIGTERMException: it came.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    def stop(*unused: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # on the way out
        raise SIGTERMException

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: specs COMMAND [--config FILE …] [--setting.name=value …]",
            "",
            *lines,
            "",
            "'specs COMMAND --help' explains the settings; 'specs fit --model.help CLASS' those of a class.",
        ]
    )


def prepare_process() -> None:
    """Settings of the whole process: memory, quiet libraries, docstrings as help."""
    from specs_lightning.memory import keep_freed_memory

    keep_freed_memory()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    for message in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message)
    import datasets
    import lightning.pytorch  # noqa: F401  it sets its loggers' levels when it is imported
    from transformers.utils import logging as transformers_logging

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()


def fit(args: Sequence[str], **trainer: Any) -> Any:
    """Run one of LightningCLI's commands; `trainer` sets defaults of the Trainer."""
    from specs_lightning.lightning_cli import SpecsCLI

    return SpecsCLI.launch(args, **trainer)


def run_function(command: str, args: Sequence[str]) -> Any:
    """Parse a function's arguments from files and overrides, and call it."""
    return _function(command)(**function_settings(command, args))


def function_settings(command: str, args: Sequence[str], *further: type) -> dict[str, Any]:
    """A function's arguments from files and overrides, made; those of `further` classes stand beside them as given."""
    from specs_lightning.errors import refused_settings
    from specs_lightning.hints import HintingParser

    function = _function(command)
    parser = HintingParser(prog=f"specs {command}", description=(function.__doc__ or "").split("\n")[0])
    if command == "data check":  # the configuration of another command
        args = [f"--config+{arg[8:]}" if arg.partition("=")[0] == "--config" else arg for arg in args]
    else:
        parser.add_argument("--config", action=ActionConfigFile, help="A YAML file of settings; several may be given.")
    if command == "compare":  # a list that a shell can make of *.yaml
        parser.add_argument("runs", nargs="+", type=str, help="Configuration files and folders of finished runs.")
    skip: set[str | int] = {"runs"} if command == "compare" else set()
    parser.add_function_arguments(function, as_positional=command == "report", sub_configs=True, skip=skip)
    for settings_class in further:
        parser.add_class_arguments(settings_class)
    config = parser.parse_args(list(args))
    if command != "data check":
        config.pop("config", None)
    # A stage's overrides are for another parser: a class path in them is not an object yet.
    overrides = {name: stage.pop("overrides") for name, stage in (config.get("stages") or {}).items()}
    with refused_settings():
        settings = vars(parser.instantiate(config))
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


def _function(command: str) -> Callable[..., Any]:
    if command == "distill":
        from specs_lightning.distill.pairs import distill

        return distill
    if command == "run":
        from specs_lightning.pipeline import run

        return run
    if command == "compare":
        from specs_lightning.comparison import compare

        return compare
    if command == "data check":
        from specs_lightning.data.check import check

        return check
    if command == "serve":
        from specs_lightning.rollout.server import serve

        return serve
    return _report


def _report(run_dir: Path) -> None:
    """Write the report of a run again.

    Args:
        run_dir: the folder that `specs run` wrote.
    """
    from specs_lightning.progress import console
    from specs_lightning.report import results_table, write_report

    console.print(results_table(run_dir))
    console.print(f"report: {write_report(run_dir)}")
