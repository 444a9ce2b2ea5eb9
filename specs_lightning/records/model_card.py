"""`README.md` of a model's folder: what it was made of and how it did, as the files of its training say.

What they do not say is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from specs_lightning.records.record import ONLY_SHOWN, RecordFile
from specs_lightning.records.results import RESULTS, ModelScores, SetScores
from specs_lightning.records.run import RUN, STAGE, StageRecord
from specs_lightning.system.files import write_atomically

FILE = "README.md"
PACKAGES = ("specs-lightning", "transformers", "torch", "lightning")
RATES = ("correct", "solved", "format_kept")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Evaluated:
    """`test.json` and `validate.json`: whose answers were scored, and the scores by set."""

    model: str | None = None
    checkpoint: str | None = None
    sets: dict[str, SetScores] = field(default_factory=dict)


def model_card(
    folder: Path, settings: Mapping[str, Any], checkpoint: Path | None = None, run: Path | None = None
) -> str:
    """The card of a model, in Markdown.

    Args:
        folder: of its training.
        settings: of its training (`model`, `data`, `seed_everything`); empty where they are not known.
        checkpoint: that it was exported from; the model of the training's end if not given.
        run: the folder of the run whose results are this model's; without one, scores are those of an evaluation of
            the checkpoint.
    """
    policy = _at(settings, "model", "init_args", "policy") or {}
    stage = STAGE.read(folder)
    scores = _of_run(run, stage) if run is not None and stage is not None else None
    evaluated = _of_checkpoint(folder, checkpoint) if checkpoint is not None and scores is None else {}
    made = Environment(
        loader=PackageLoader("specs_lightning", "records"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(code=_code, literal=_literal, percent=_percent, figure=_figure, fenced=_fenced)
    return made.get_template("model_card.md.j2").render(
        header=yaml.safe_dump(_header(policy.get("model")), sort_keys=False),
        name=stage.stage if stage is not None and stage.stage else folder.resolve().name,
        base=_at_revision(policy.get("model"), policy.get("revision")),
        data=_data(settings),
        checkpoint=checkpoint.name if checkpoint is not None else None,
        stages=_stages(run),
        settings=yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True).rstrip() if settings else "",
        sets=scores.sets if scores is not None else evaluated,
        rates=RATES,
        scores=scores,
        versions=_versions(),
    )


def renew_card(folder: Path, run: Path) -> None:
    """Write the card of the model in a stage's folder again, with what its run has found out."""
    config = folder / "config.yaml"
    if (folder / "model" / FILE).exists() and config.exists():
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        trained = {name: settings[name] for name in ("seed_everything", "model", "data") if name in settings}
        write_atomically(folder / "model" / FILE, model_card(folder, trained, run=run))


def _versions() -> dict[str, str]:
    """Of what is installed; this package may be used from a folder of sources."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _at_revision(name: str | None, revision: str | None) -> str | None:
    return name if name is None or revision is None else f"{name}@{revision}"


def _header(base: str | None) -> dict[str, Any]:
    header: dict[str, Any] = {"library_name": "transformers", "tags": ["specs-lightning"]}
    base = base.partition("@")[0] if base is not None and not Path(base).exists() else base
    if base is not None and _HUB_NAME.fullmatch(base) and not Path(base).exists():
        header["base_model"] = base
    return header


def _data(settings: Mapping[str, Any]) -> str | None:
    """Where the rows come from that it was trained on."""
    train = _at(settings, "data", "init_args", "train")
    path, revision = (train.get("path"), train.get("revision")) if isinstance(train, Mapping) else (train, None)
    return None if path is None else _at_revision(str(path), revision)


def _at(settings: Any, *names: str) -> Any:
    for name in names:
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings


def _stages(run: Path | None) -> list[StageRecord]:
    """What the run has done, in order."""
    record = None if run is None else RUN.read(run)
    if run is None or record is None:
        return []
    return [stage for name in record.stages if (stage := STAGE.read(run / name)) is not None]


def _of_run(run: Path, stage: StageRecord) -> ModelScores | None:
    results = RESULTS.read(run)
    return next((model for model in results.models if model.stage == stage.stage), None) if results else None


def _of_checkpoint(folder: Path, checkpoint: Path) -> dict[str, SetScores]:
    """The scores of an evaluation of this very checkpoint, after it was written."""
    for command in ("test", "validate"):
        file = folder / f"{command}.json"
        found = RecordFile(file.name, Evaluated, ONLY_SHOWN).read(folder)
        if found is None or found.checkpoint is None:
            continue
        same = Path(found.checkpoint).resolve() == checkpoint.resolve()
        if same and file.stat().st_mtime >= checkpoint.stat().st_mtime:
            return found.sets
    return {}


def _code(text: Any) -> str:
    """Text as it is, whatever Markdown would make of it; within a line."""
    plain = " ".join(str(text).split())
    fence = "`" * (1 + max((len(ticks) for ticks in re.findall(r"`+", plain)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{plain}{space}{fence}".replace("|", "\\|")


def _literal(text: str) -> str:
    """Text as it is, outside of code: none of it is a heading, a link or an element; within a line."""
    return re.sub(r"([\\`*<>\[\]()#!|&~])", r"\\\1", " ".join(text.split()))


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall(r"`+", text)), default=0))
    return f"{fence}yaml\n{text}\n{fence}"


def _percent(of_set: SetScores, measure: str) -> str:
    value, interval = getattr(of_set, measure), of_set.interval(measure)
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + (f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")


def _figure(scores: ModelScores, name: str) -> str:
    value, interval = getattr(scores, name), scores.interval(name)
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")
