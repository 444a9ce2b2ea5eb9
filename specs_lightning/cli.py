"""The command `specs`: what each command is called, and where it is. A command is imported when it is called.

`fit`, `validate`, `test` and `predict` are LightningCLI's, with class paths, several `--config` files and dotted
overrides. The others stand beside them, on the same configuration files.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specs_lightning.commands.process import prepare_process
from specs_lightning.errors import SpecsError, finished_or_failed
from specs_lightning.settings.yaml_files import with_shipped
from specs_lightning.system.files import full_disk
from specs_lightning.system.signals import INTERRUPTED, STOPPED, Stopped, raising_on_sigterm

GOES_ON = "The same command goes on from there."
BEGINS_ANEW = "The same command begins anew."


@dataclass(frozen=True)
class Command:
    """A command of `specs`.

    Args:
        does: a line for the list of commands.
        place: `module:function`.
        parsed: how its arguments are parsed (`settings.functions`); None if the function takes them as they are given.
        goes_on: how it goes on after SIGTERM, Ctrl-C or a full disk, if these only interrupt it.
        starts_others: whether it runs other commands in processes of their own.
        names_classes: whether its settings have class paths, which may name modules in the working directory.
    """

    does: str
    place: str
    parsed: dict[str, Any] | None = field(default_factory=dict)
    goes_on: str = ""
    starts_others: bool = False
    names_classes: bool = False

    def function(self) -> Callable[..., Any]:
        module, _, name = self.place.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(f"specs_lightning.{module}"), name)
        return function


LIGHTNING = "commands.fit:lightning"

COMMANDS = {
    "init": Command(
        "write a project: data, settings, a reward and a callback to change",
        "commands.init:init",
        {"positional": "folder", "takes_files": False},
    ),
    "run": Command(
        "the whole method, stage by stage, to a report",
        "runs.pipeline:run",
        goes_on=GOES_ON,
        starts_others=True,
        names_classes=True,
    ),
    "fit": Command(
        "one training stage",
        LIGHTNING,
        None,
        "The same command with --ckpt_path last goes on from there.",
        names_classes=True,
    ),
    "validate": Command("score a model on its evaluation sets", LIGHTNING, None, GOES_ON, names_classes=True),
    "test": Command("the same, as a final test", LIGHTNING, None, GOES_ON, names_classes=True),
    "predict": Command("answer the evaluation sets' prompts", LIGHTNING, None, GOES_ON, names_classes=True),
    "export": Command(
        "write the model of a checkpoint as a Hugging Face folder",
        "commands.export:export",
        {"positional": "checkpoint", "takes_files": False},
    ),
    "score": Command("judge answers that lmms-eval or VLMEvalKit recorded", "commands.score:score", names_classes=True),
    "distill": Command(
        "make preference pairs from the seed model and the base",
        "distill.pairs:distill",
        goes_on=GOES_ON,
        names_classes=True,
    ),
    "compare": Command(
        "runs over several seeds, beside each other",
        "runs.comparison:compare",
        {"listed": "runs"},
        goes_on=GOES_ON,
        names_classes=True,
    ),
    "plan": Command(
        "what a run will need of memory, and get through, before it is started", "plan:plan", None, names_classes=True
    ),
    "doctor": Command(
        "whether this machine and a model are ready for it", "commands.doctor:doctor", {"takes_files": False}
    ),
    "report": Command("write the report of a run again", "report.page:report", {"positional": "run_dir"}),
    "watch": Command(
        "the report of a run while it goes on, in a browser", "report.watch:watch", {"positional": "run_dir"}
    ),
    "data check": Command(
        "read data sets once: what is in them, and which rows cannot be used",
        "data.check:check",
        {"takes_files": False},
        names_classes=True,
    ),
    "serve": Command("sample with vLLM for trainings in other processes", "rollout.server.http:serve"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return
    if args[0] == "--version":
        from specs_lightning import __version__  # for this alone

        print(f"specs-lightning {__version__}")
        return
    if args[0] == "--completion":
        from specs_lightning.commands.completion import bash  # for this alone

        print(bash(COMMANDS))
        return
    if args[0] == "data" and args[1:]:
        args = [" ".join(args[:2]), *args[2:]]
    name = args[0]
    if name not in COMMANDS:
        sys.exit(f"specs: unknown command {name!r}\n\n{usage()}")
    command = COMMANDS[name]
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # processes that this one starts do not look there first, either
    if command.names_classes and os.getcwd() not in sys.path:
        # So that a class_path finds the user's own modules; behind all that is installed, which none can stand in for.
        sys.path.append(os.getcwd())
    try:
        with raising_on_sigterm() if command.goes_on else nullcontext():
            if _run(name, command, args) is False:
                sys.exit(1)
    except Stopped as stop:
        _tell_ending(name, f"stopped by {stop.by}", command)
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        if os.environ.get("SPECS_TRACEBACK"):
            raise
        _tell_ending(name, "interrupted", command)
        sys.exit(INTERRUPTED)
    except SpecsError as error:
        if os.environ.get("SPECS_TRACEBACK"):
            raise
        sys.exit(f"specs {name}: {error}\n(SPECS_TRACEBACK=1 shows where)")
    except Exception as error:
        if (full := full_disk(error)) is None:
            raise
        file = Path(full.filename).absolute() if full.filename else None
        place = f" for {file.name} in {file.parent}" if file else ""
        sys.exit(f"specs {name}: {full.strerror}{place}. Make room. {command.goes_on or BEGINS_ANEW}")


def _tell_ending(name: str, ending: str, command: Command) -> None:
    """What ended a command before it was done, and how it goes on; of a stage, its run says it."""
    from specs_lightning.system.progress import TITLE  # not for those that end well

    if TITLE not in os.environ:
        print(f"specs {name}: {ending}. {command.goes_on or BEGINS_ANEW}", file=sys.stderr)


def _run(name: str, command: Command, args: Sequence[str]) -> Any:
    """Call the command's function; False is that of one that found fault with what it was to look at."""
    prepare_process()
    args = with_shipped(args)
    if command.starts_others and not {"-h", "--help", "--print_config"} & set(args):
        from specs_lightning.runs.processes import warm_up  # beside this process's own imports

        warm_up()
    function = command.function()
    if command.parsed is None:
        return function(args)
    from specs_lightning.settings.functions import function_settings  # not for those that parse by themselves

    settings = function_settings(function, args[1:], name=name, **command.parsed)
    with finished_or_failed():
        return function(**settings)


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {command.does}" for name, command in COMMANDS.items())
    return (
        f"usage: specs COMMAND [--config FILE …] [--setting.name=value …]\n\n{lines}\n\n"
        "'specs COMMAND --help' explains the settings; 'specs fit --model.help CLASS' those of a class.\n"
        'eval "$(specs --completion)" has bash complete commands and configurations.'
    )
