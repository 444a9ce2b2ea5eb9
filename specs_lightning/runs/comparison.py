"""Several runs over several seeds, beside each other: `specs compare`.

What is missing is run. Stages are kept in one store by their fingerprints, so that what runs have in common (the base's
evaluation, zero, the candidates) is done once a seed, and a stopped comparison goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs_lightning.commands.process import prepare_process
from specs_lightning.errors import SpecsError
from specs_lightning.records.run import RUN, STAGE, read_run
from specs_lightning.report.comparison import ComparisonError, comparison_table, write_comparison
from specs_lightning.runs.jobs import Job, run_jobs
from specs_lightning.runs.processes import warm_up
from specs_lightning.settings.engines import EngineSettings
from specs_lightning.settings.functions import function_settings
from specs_lightning.settings.yaml_files import locate
from specs_lightning.system.files import checked_name
from specs_lightning.system.terminal import console, plain, say


@dataclass(frozen=True)
class Experiment:
    """One way of training: the folders of its finished runs by seed, and how to run it (None: it is run already)."""

    name: str
    folders: dict[int, Path]
    settings: dict[str, Any] | None = None


def compare(
    runs: list[str],
    seeds: int | list[int] = 5,
    until: str | None = None,
    output: str = "runs/comparison",
    engine: EngineSettings | None = None,
    at_once: int = 1,
) -> Path:
    """Run what is missing over several seeds, and compare it: `comparison.html` and `comparison.json`.

    Args:
        runs: configuration files of `specs run`, and folders that it wrote. The first is what all others are compared
            with. Folders of the same name are seeds of one.
        seeds: how many, from 0 on; or which.
        until: the last stage to do, for now. Configurations without this stage are left out.
        output: the folder to write to.
        engine: what samples, in every stage, as for `specs run`.
        at_once: how many seeds may go on beside each other, each on its share of the processor.

    Returns:
        the page's path.

    Raises:
        ComparisonError: two configurations have one name, or a run failed; the others are finished first.
    """
    folder = Path(output)
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not all(Path(given).is_dir() for given in runs):
        warm_up()  # beside this process's own imports
        prepare_process()
    experiments = _experiments(runs, until)
    failures: dict[str, str] = {}

    def go_through(seed: int) -> Job[None]:
        """All experiments of a seed; there is a whole comparison after each."""
        from specs_lightning.runs.pipeline import stages_of  # heavy, and not needed to compare finished runs

        for name, experiment in experiments.items():
            if experiment.settings is None:
                continue
            console.rule(plain(f"{name}, seed {seed}"))
            place = folder / name / f"seed-{seed}"
            label = f"{name}, seed {seed} " if at_once > 1 else ""  # others tell of theirs in between
            wanted = {**experiment.settings, "name": name, "folder": place, "seed": seed, "label": label}
            try:
                with stages_of(**wanted, until=until, engine=engine, store=folder / "stages") as (jobs, _):
                    for job in jobs.values():
                        yield from job
                experiment.folders[seed] = place
            except SpecsError as error:  # noted: it does not keep others from being done
                failures[f"{name}, seed {seed}"] = str(error)
                say(f"failed: {error}", "red")
            _write(folder, experiments, failures)

    run_jobs({str(seed): go_through(seed) for seed in chosen}, at_once=at_once)
    page = _write(folder, experiments, failures)
    console.print(comparison_table(folder))
    say(f"comparison: {page} (open it in a browser)")
    if failures:
        raise ComparisonError("\n".join(["these runs failed:", *(f"  {run}: {why}" for run, why in failures.items())]))
    return page


def _write(folder: Path, experiments: dict[str, Experiment], failures: dict[str, str]) -> Path:
    """The page of what is there, seeds in order."""
    done = {name: dict(sorted(found.folders.items())) for name, found in experiments.items() if found.folders}
    for name, folders in done.items():
        _check_versions(name, folders)
    return write_comparison(folder, done, failures)


def _check_versions(name: str, folders: Mapping[int, Path]) -> None:
    """Seeds differ by chance alone: a difference between two versions of the package would be taken for it."""
    made: dict[str, int] = {}
    for seed, folder in folders.items():
        for stage in read_run(folder).stages:
            if (record := STAGE.read(folder / stage)) is not None and record.version:
                made.setdefault(record.version, seed)
    if len(made) > 1:
        by = " and ".join(f"{version} (seed {seed})" for version, seed in made.items())
        raise ComparisonError(
            f"{name}: its seeds were made by different versions of specs-lightning, {by}: run them all by one, with "
            "another --output"
        )


def _experiments(runs: Sequence[str], until: str | None) -> dict[str, Experiment]:
    """Those that are named, without any that lacks the last stage to do."""
    found: dict[str, Experiment] = {}
    for path in map(Path, runs):
        if path.is_dir():
            _add_finished(path, found)
        else:
            _add_configured(locate(path), found)
    for name, experiment in list(found.items()):
        if until and experiment.settings is not None and until not in experiment.settings["stages"]:
            say(f"left out, since it has no stage {until}: {name}")
            del found[name]
    return found


def _add_finished(folder: Path, found: dict[str, Experiment]) -> None:
    record = read_run(folder)
    if record.seed is None:
        raise ComparisonError(f"{folder / RUN.name} tells no seed: {RUN.remedy}")
    known = found.setdefault(record.name, Experiment(record.name, {}))
    if known.settings is not None or record.seed in known.folders:
        raise ComparisonError(f"{folder}: there is another {record.name} with seed {record.seed}")
    known.folders[record.seed] = folder


def _add_configured(file: Path, found: dict[str, Experiment]) -> None:
    from specs_lightning.runs.pipeline import run  # heavy, and not needed to compare finished runs
    from specs_lightning.runs.planned_stages import with_template  # which it imports

    settings = function_settings(run, [f"--config={file}"])
    name = checked_name(settings["name"])
    if name in found:
        raise ComparisonError(f"{file}: there is another run of the name {name}; give each a `name` of its own")
    for other in found.values():
        if other.settings is not None and other.settings["evaluation"] != settings["evaluation"]:
            raise ComparisonError(f"{file}: {name} would be measured otherwise than {other.name} (evaluation)")
    stages = with_template(settings["stages"], settings["chat_template_kwargs"])
    found[name] = Experiment(name, {}, {"stages": stages, "evaluation": settings["evaluation"]})
