"""Writes docs/settings.md from signatures and docstrings: `python docs/make_settings.py`.

A class that a package exports appears by itself; so does a settings dataclass that one of them takes.
`tests/docs/test_settings_reference.py` compares the file with what this script makes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser

from specs_lightning import callbacks, data, modules, objectives, rewards, rollout
from specs_lightning.commands.export import export
from specs_lightning.commands.score import score
from specs_lightning.data.check import check
from specs_lightning.data.policy_data import PolicyDataModule
from specs_lightning.distill.pairs import distill
from specs_lightning.objectives import GRPO, ColdStartObjective
from specs_lightning.runs.comparison import compare
from specs_lightning.runs.pipeline import run

FILE = Path(__file__).parent / "settings.md"

INTRO = """\
# Settings

This page is generated: `python docs/make_settings.py` writes it from the signatures and docstrings of the package,
and a test fails when the two differ. Edit the docstrings, not this file.

## How settings are given

- A YAML file by `--config FILE`. Several may be given; a later one wins.
- Dotted overrides on the command line: `--data.rounds=5`. They win over the files to their left.
- A class by its path, with its settings below `init_args`:

  ```yaml
  model:
    class_path: specs_lightning.modules.ColdStartModule
    init_args:
      policy: {model: toy:base}
      objective:
        class_path: specs_lightning.objectives.DPO
        init_args: {beta: 0.1}
  ```

  On the command line, `--model.objective specs_lightning.objectives.SFT` exchanges the class, and
  `--model.objective.init_args.beta=0.2` sets one of its settings. Any importable class will do, the working directory's
  own included.
- `specs fit`, `validate`, `test` and `predict` take three groups of settings: `trainer` (Lightning's `Trainer`),
  `model` (a module) and `data` (a data module); and `seed_everything`. `specs run`, `specs compare` and `specs distill`
  take the arguments of the functions below. `specs report` takes the folder of a run and no
  settings, `specs watch` the folder and a `--port`.
- A file may extend another, whatever command it is for: `extends: configs/ablations/base.yaml`. Its own settings are
  merged into the other's, however deep; null removes one; a class in another's place (`class_path`) keeps nothing of
  it. Paths are relative to the working directory.
- The overrides of a run's stage are merged, too: `--stages.zero.overrides.data.rounds=3` changes this one, and so does
  `--stages.zero.overrides '{data.rounds: 3}'`; the file's others are kept, and null removes one. In a file,
  `data: {rounds: 3}` does what `data.rounds: 3` does; only `extends` and the command line tell the two apart.
- `--print_config` prints all settings as they would be used, and stops. `specs fit --model.help CLASS` and
  `--data.help CLASS` explain the settings of a class.

Defaults of the Trainer that differ from Lightning's: `max_epochs: 1`, `log_every_n_steps: 1`,
`num_sanity_val_steps: 0`, and `Checkpoints` in place of `ModelCheckpoint`. Beside the loggers that you give,
`metrics.csv` in `default_root_dir` holds what `fit` logs (`metrics_test.csv` and the like what other commands do);
`--logger wandb` of `fit` and `run` sends it on to a [tracker](trackers.md). A `ModelCheckpoint` without a `dirpath`
writes to `checkpoints/` there. `seed_everything` is 0.
`specs fit --ckpt_path last` goes on from the newest checkpoint in `checkpoints/` that can be used, and begins anew
where there is none. `specs test`, `validate` and `predict` take `--ckpt_path last` or `best` of the training in
`default_root_dir`, the path of a checkpoint, or the folder of a training for its newest one; what is not there is
refused. `fit` leaves the model in `model/`: `ExportHF` is added where it is not given.
The Trainer's `gradient_clip_val` and `accumulate_grad_batches` are not available, since the modules optimize by
themselves: use `max_grad_norm` and `max_tokens_per_micro_batch`.

Of a wrong setting the one cause is printed, with its file and line: `a.yaml, line 3: data.rounds: expected int, got
'five'`. Environment variables: `SPECS_TRACEBACK=1` shows the traceback of an error whose message alone is printed
otherwise, and all that the parser says of a setting;
`SPECS_CACHE` is the folder in which the toy's data sets and verdicts on gold answers are kept
(default `~/.cache/specs-lightning`).
"""


def exported(package: ModuleType, *bases: type) -> list[type]:
    """The concrete classes of these kinds that a package exports."""
    found = [getattr(package, name) for name in package.__all__]
    return [c for c in found if inspect.isclass(c) and issubclass(c, bases) and not inspect.isabstract(c)]


def sections() -> dict[str, list[Any]]:
    """What is documented, by heading. Settings that several take, or that are found in a signature, come last."""
    from lightning.pytorch import Callback

    listed: dict[str, list[Any]] = {
        "Commands": [run, compare, distill, score, check, export],
        "Modules (`model`)": exported(modules, modules.PolicyModule),
        "Objectives (`model.objective`)": exported(objectives, ColdStartObjective, GRPO),
        "Surrogates (`model.objective.surrogate`)": exported(objectives, objectives.Surrogate),
        "Advantages (`model.objective.advantages`)": exported(objectives, objectives.Advantages),
        "Data (`data`)": exported(data, PolicyDataModule),
        "Rewards (`data.rewards`)": exported(rewards, rewards.Reward),
        "Rollout engines (`engine`)": exported(rollout, rollout.RolloutEngine),
        "Callbacks (`trainer.callbacks`)": exported(callbacks, Callback),
    }
    known = [item for items in listed.values() for item in items]
    nested = dict.fromkeys(kind for item in known for kind in _nested_settings(item) if kind not in known)
    return {**listed, "Nested settings": list(nested)}


def _nested_settings(item: Any) -> Iterator[type]:
    """The package's dataclasses among the types that a class or function takes, however deep."""
    for hint in _hints(item).values():
        for kind in _types(hint):
            if dataclasses.is_dataclass(kind) and kind.__module__.startswith("specs_lightning."):
                yield kind
                yield from _nested_settings(kind)


def _hints(item: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(item):
        return get_type_hints(item)
    found: dict[str, Any] = {}
    for taker in _takers(item):
        found = get_type_hints(_signature_of(taker)) | found
    return {name: hint for name, hint in found.items() if name not in ("return", "kwargs")}


def _takers(item: Any) -> list[Any]:
    """A function or class and, where its `**kwargs` or fields are also those of the class that it inherits from, that
    one."""
    if dataclasses.is_dataclass(item):
        return [kind for kind in item.__mro__ if dataclasses.is_dataclass(kind)]
    if inspect.isclass(item) and "kwargs" in inspect.signature(item).parameters:
        return [item, *_takers(item.__base__)]
    return [item]


def _meanings(item: Any) -> dict[str, str]:
    """What each setting means, in a class's own words before those of the one that it inherits from."""
    found: dict[str, str] = {}
    for taker in _takers(item):
        found = {p.arg_name: p.description or "" for p in docstring_parser.parse_from_object(taker).params} | found
    return found


def _types(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and not get_args(hint):
        yield hint
    for argument in get_args(hint):
        yield from _types(argument)


def _signature_of(item: Any) -> Callable[..., Any]:
    return item.__init__ if inspect.isclass(item) else item


def render() -> str:
    """The whole page."""
    parts = [INTRO]
    for heading, items in sections().items():
        parts.append(f"## {heading}\n")
        parts += [_entry(item) for item in items]
    return "\n".join(parts)


def _entry(item: Any) -> str:
    documentation = docstring_parser.parse_from_object(item)
    meanings = _meanings(item)
    rows = [(name, *rest, meanings.get(name)) for name, *rest in _fields(item)]
    if undocumented := [name for name, *_, meaning in rows if not meaning]:
        raise ValueError(f"{item.__qualname__} does not say what {', '.join(undocumented)} means")
    if item in (run, compare, distill, score, check, export):
        title, path = f"`specs {item.__name__}`", ""
    else:
        title, path = f"`{item.__name__}`", f"`{_class_path(item)}`. "
    description = documentation.description or ""
    head = f"### {title}\n\n{path}{_one_line(description)}\n"
    if not rows:
        return f"{head}\nNo settings.\n"
    table = ["| Setting | Type | Default | Meaning |", "|---|---|---|---|"]
    table += [f"| `{n}` | {_code(t)} | {_code(d) if d else 'required'} | {_sentence(m)} |" for n, t, d, m in rows]
    return head + "\n" + "\n".join(table) + "\n"


def _fields(item: Any) -> Iterator[tuple[str, str, str]]:
    """Name, type and default of each setting; an empty default where it is required."""
    hints = _hints(item)
    if dataclasses.is_dataclass(item):
        for field in dataclasses.fields(item):
            made = field.default_factory is not dataclasses.MISSING
            default = field.default_factory() if made else field.default  # type: ignore[misc]
            yield (
                field.name,
                _type(hints[field.name], field.type),
                "" if default is dataclasses.MISSING else _default(default),
            )
    elif inspect.isfunction(item) or "__init__" in vars(item):
        written = {name: text for taker in _takers(item) for name, text in _written_defaults(taker).items()}
        for parameter in _parameters(item):
            if parameter.default is inspect.Parameter.empty:
                default = ""
            elif inspect.isfunction(parameter.default):
                default = written[parameter.name]
            else:
                default = _default(parameter.default)
            yield parameter.name, _type(hints[parameter.name], parameter.annotation), default


def _parameters(item: Any) -> list[inspect.Parameter]:
    """Its own, then those that it hands on."""
    found: dict[str, inspect.Parameter] = {}
    for taker in _takers(item):
        found |= {name: p for name, p in inspect.signature(taker).parameters.items() if name not in found}
    return [parameter for name, parameter in found.items() if name != "kwargs"]


def _type(hint: Any, written: Any) -> str:
    """A type as the source has it; of a choice, the values."""
    return " | ".join(map(repr, get_args(hint))) if get_origin(hint) is Literal else str(written)


def _default(value: Any) -> str:
    """A default as it would be written; of settings, those that differ from their own defaults."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value)
    given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    changed = [
        f"{field.name}={given[field.name]!r}"
        for field in dataclasses.fields(value)
        if field.default_factory is dataclasses.MISSING and given[field.name] != field.default
    ]
    return f"{type(value).__name__}({', '.join(changed)})"


def _written_defaults(item: Any) -> dict[str, str]:
    """The defaults as the source has them, for those that have no representation of their own."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(_signature_of(item)))).body
    assert isinstance(tree, ast.FunctionDef)
    arguments = [*tree.args.posonlyargs, *tree.args.args]
    defaults = tree.args.defaults
    return {a.arg: ast.unparse(d) for a, d in zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)}


def _class_path(item: type) -> str:
    """The path by the package that exports it, or by its module."""
    for package in (callbacks, data, modules, objectives, rewards, rollout):  # as a configuration would name it
        if item.__name__ in package.__all__:
            return f"{package.__name__}.{item.__name__}"
    return f"{item.__module__}.{item.__name__}"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _sentence(text: str) -> str:
    text = _cell(text)
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{_cell(text)}`"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
