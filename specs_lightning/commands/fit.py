"""LightningCLI as `specs` uses it: any `PolicyModule` with any `PolicyDataModule`, both by class path."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from specs_lightning.callbacks import Checkpoints, ExportHF
from specs_lightning.callbacks.stage_progress import StageProgress
from specs_lightning.commands.endings import scored_by
from specs_lightning.commands.process import quiet_lightning
from specs_lightning.data.policy_data import PolicyDataModule
from specs_lightning.errors import SettingsError, finished_or_failed, refused_settings
from specs_lightning.evaluation.generalization import Generalization, generalization
from specs_lightning.evaluation.outcome import PREDICTIONS
from specs_lightning.evaluation.paired_scores import PairedDifference, paired_differences
from specs_lightning.evaluation.scores import differences_table, scores_table
from specs_lightning.modules import PolicyModule
from specs_lightning.modules.checkpoint_files import FOLDER, LAST, find, newest_usable
from specs_lightning.modules.checkpoint_policy import policy_of_checkpoint
from specs_lightning.modules.metrics_file import MetricsFile, ResumeMetrics
from specs_lightning.modules.trackers import make_trackers, tracking
from specs_lightning.records.answers import Answer
from specs_lightning.records.record import as_json
from specs_lightning.report.evaluation import EvaluatedModel, write_evaluation
from specs_lightning.settings.hints import HintingParser
from specs_lightning.settings.trackers import TrackerSettings, trackers_in
from specs_lightning.strategies import FSDP2 as FSDP2  # registers it
from specs_lightning.system.files import write_atomically
from specs_lightning.system.folder_lock import only_writer
from specs_lightning.system.progress import TITLE
from specs_lightning.system.ranks import rank
from specs_lightning.system.signals import Stopped
from specs_lightning.system.terminal import console, say


def lightning(args: Sequence[str]) -> None:
    """Run one of LightningCLI's commands, which comes first in its arguments."""
    try:
        SpecsCLI.launch(args)
    except SIGTERMException as error:
        raise Stopped from error
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's end of a command after Ctrl-C
            raise KeyboardInterrupt from error
        raise
    except MisconfigurationException as error:  # what Lightning says of settings that do not go together
        said = " ".join(str(error).split())
        remedy = next((remedy for part, remedy in REMEDIES.items() if part in said), "")
        raise SettingsError(f"{said.rstrip('.!')}{remedy}") from error


NO_GPU = ": torch finds none here (`specs doctor` says why): give --trainer.accelerator cpu, or auto"
REMEDIES = {
    "No supported gpu backend": NO_GPU,
    "CUDAAccelerator` can not run": NO_GPU,
}
"""What to do, by a part of what Lightning says."""
DOING = {"fit": "training", "validate": "validating", "test": "testing", "predict": "answering"}
"""Titles of the commands' bars where they are no stages of a run."""
NOT_OURS = {
    "gradient_clip_val": (None, "the module clips gradients, those of whole steps: set model.max_grad_norm"),
    "accumulate_grad_batches": (
        1,
        "one batch is one step, in micro-batches that fit the memory: set data.batch_size or data.prompts_per_round "
        "for its size, and model.max_tokens_per_micro_batch for theirs",
    ),
}
"""Settings of the Trainer that the step loop has in another place: what they are left at, and what to set instead."""


class HintingLightningParser(HintingParser, LightningArgumentParser):
    """LightningCLI's, with errors that say what would be right."""


class SaveConfig(SaveConfigCallback):
    """Writes the resolved settings to the run's folder, to be given to `--config` again, and into each checkpoint.

    `config.yaml` is the training's; other commands write `config_test.yaml` and the like beside it.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            # A saved `ckpt_path: null` would override the command line's.
            config = self.config.clone()
            config.pop("ckpt_path", None)
            for name in ("logger", "run_dir"):  # what no other command takes, where it is not set
                if config.get(name) is None:
                    config.pop(name, None)
            command = trainer.state.fn.value  # type: ignore[union-attr]  # one is running
            file = "config.yaml" if command == "fit" else f"config_{command}.yaml"
            write_atomically(folder / file, self.parser.dump(config, skip_none=False))
        if stage == "fit":
            pl_module.settings = self.training_settings  # type: ignore[assignment]  # it is a PolicyModule

    @property
    def training_settings(self) -> dict[str, Any]:
        """What is trained, on what and how, as plain values; not on which machines."""
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False, skip_validation=True))
        return {name: settings[name] for name in ("seed_everything", "model", "data")}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["settings"] = self.training_settings


class SpecsCLI(LightningCLI):
    """LightningCLI with the package's defaults."""

    program = "specs"
    trackers: Mapping[str, Logger] = {}
    is_base = False
    """Whether it evaluates the base beside a model, of which the figures of all sets are told."""

    @classmethod
    def launch(cls, args: Sequence[str] | Namespace, run: bool = True, **trainer_defaults: Any) -> Self:
        """Parse the arguments, make what they name and, unless told otherwise, run the command that comes first."""
        quiet_lightning()
        return cls(
            PolicyModule,
            PolicyDataModule,
            save_config_callback=SaveConfig,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            trainer_defaults=trainer_defaults,
            parser_class=HintingLightningParser,
            parser_kwargs={"prog": cls.program},
            args=args if isinstance(args, Namespace) else list(args),
            run=run,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # A run has one epoch unless told otherwise: rollouts are one long pass, and so is the paper's cold start.
        defaults = {"max_epochs": 1, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
        parser.set_defaults({f"trainer.{name}": value for name, value in defaults.items()})

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            does = "A second model (folder, hub name or toy:base) that answers the same prompts, to compare with."
            parser.add_argument("--base", type=str | None, default=None, help=does)
        if subcommand == "fit":
            does = "What follows the training beside metrics.csv, one or several: mlflow, tensorboard, trackio, wandb."
            parser.add_argument("--logger", type=TrackerSettings, default=None, help=does)
            does = "The folder of the run that this is a stage of: trackers keep their files there, its stages grouped."
            parser.add_argument("--run_dir", type=str | None, default=None, help=does)
        return parser

    def _parse_ckpt_path(self) -> None:
        """Lightning would take settings from a checkpoint, class paths among them. Ours has none to give."""

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Nothing in a checkpoint is run: Lightning would unpickle one that it is to fetch from an address."""
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    def instantiate_classes(self) -> None:
        try:
            with refused_settings(), finished_or_failed():
                super().instantiate_classes()
        except ModuleNotFoundError as error:  # a logger's package, or one that a class of the user's imports
            raise SettingsError(f"{' '.join(str(error).split())}: install it, or leave out what needs it") from error

    def before_test(self) -> None:
        """Lightning's table of what was logged has no intervals; `test` prints one that has."""
        self.config_init[self.subcommand]["verbose"] = False

    before_validate = before_test

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self._get(self.config_init, "trainer")
        for name, (default, instead) in NOT_OURS.items() if self.subcommand == "fit" else ():
            if settings[name] != default:
                raise SettingsError(f"trainer.{name} {settings[name]}: {instead}")
        given = list(settings.callbacks or [])
        if settings.logger in (None, True):
            kwargs["logger"] = False
        trackers = trackers_in(self._get(self.config_init, "logger")) if self.subcommand == "fit" else []
        trainer = super().instantiate_trainer(**kwargs)
        folder = Path(trainer.default_root_dir)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in [c for c in callbacks if isinstance(c, Checkpoint)]:
            if callback not in given:  # Lightning's own, where none was asked for
                callbacks.remove(callback)
            elif isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder / FOLDER)  # not below a logger's version
        bars = [callback for callback in callbacks if isinstance(callback, ProgressBar)]
        if bars and bars[0] not in given:  # Lightning's own
            callbacks.remove(bars[0])
            callbacks.append(StageProgress(os.environ.get(TITLE) or DOING[str(self.subcommand)]))
        if settings.enable_checkpointing is not False and not any(isinstance(c, Checkpoints) for c in callbacks):
            callbacks.append(Checkpoints())
        exported = any(isinstance(c, ExportHF) for c in callbacks)
        if self.subcommand == "fit" and not exported and not settings.fast_dev_run:
            callbacks.append(ExportHF())
        if settings.logger is not False:
            name = "metrics" if self.subcommand == "fit" else f"metrics_{self.subcommand}"
            metrics = MetricsFile(folder / f"{name}.csv")
            trainer.loggers = [*trainer.loggers, metrics]
            callbacks.insert(0, ResumeMetrics(metrics))  # before any that logs
        if trackers:
            run_dir, ckpt_path = self._get(self.config_init, "run_dir"), self._get(self.config_init, "ckpt_path")
            self.trackers = make_trackers(trackers, folder, run_dir and Path(run_dir), goes_on=ckpt_path is not None)
            trainer.loggers = [*trainer.loggers, *self.trackers.values()]
        return trainer

    def fit(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Train; `ckpt_path: last` goes on from the newest checkpoint that can be used, if there is one."""
        folder = Path(self.trainer.default_root_dir)
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        saving = next((callback for callback in callbacks if isinstance(callback, SaveConfig)), None)
        settings = saving.training_settings if saving else None  # a fast_dev_run saves none
        with only_writer(folder):
            if ckpt_path == LAST:
                newest = newest_usable(folder / FOLDER, settings)
                ckpt_path = str(newest) if newest else None
            elif ckpt_path is not None:
                ckpt_path = str(find(ckpt_path, folder, settings)[0])
            with finished_or_failed(), tracking(self.trackers, folder, settings or {}):
                self.trainer.fit(ckpt_path=ckpt_path, **kwargs)
            if self.model.phase == "starting":
                ended = f"{ckpt_path} is at the end of its training"
                say(f"nothing to do: {ended}; for more, start from its model")
            elif TITLE not in os.environ:
                self._tell_what_is_next()

    def _tell_what_is_next(self) -> None:
        """Where the model is, and the command that scores it."""
        exports = [callback for callback in self.trainer.callbacks if isinstance(callback, ExportHF)]  # type: ignore[attr-defined]
        model = Path(self.trainer.default_root_dir) / exports[0].folder if exports else None
        if rank() != 0:
            return
        if self._get(self.config_init, "trainer").fast_dev_run:
            say("it runs; nothing of it was kept: the same without trainer.fast_dev_run trains")
        elif model is not None and model.is_dir():
            say(scored_by(model))

    def _evaluate(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Run the command on the model that the settings name, or on the policy of a checkpoint (`find`)."""
        folder = Path(self.trainer.default_root_dir)
        with only_writer(folder):
            if ckpt_path is not None:
                file, state = find(ckpt_path, folder)
                self.model.policy_settings = policy_of_checkpoint(file, state, self.model.policy_settings)
                ckpt_path = str(file)
                say(f"the policy of {file}, trained from {self.model.policy_settings.model}")
            with finished_or_failed():
                getattr(self.trainer, str(self.subcommand))(ckpt_path=ckpt_path, **kwargs)

    def predict(self, **kwargs: Any) -> None:
        """Answer the evaluation sets' prompts, and say where the answers are."""
        self._evaluate(**kwargs)
        if rank() == 0:
            answers = sum(map(len, self.model.outcome.answers.values()))
            say(f"{answers} answers: {Path(self.trainer.default_root_dir) / PREDICTIONS}")

    def test(self, **kwargs: Any) -> None:
        """Answer the evaluation sets, with the base beside, and write the page; all but what is answered already."""
        command, folder = str(self.subcommand), Path(self.trainer.default_root_dir)
        of_a_run = TITLE in os.environ  # which shows its results when all stages are done
        self._evaluate(**kwargs)
        outcome = self.model.outcome
        models, apart = [EvaluatedModel(str(outcome.checkpoint or outcome.model), outcome.answers)], {}
        if rank() == 0 and not of_a_run:
            console.print(scores_table(outcome.scores))
        of_base: Mapping[str, Sequence[Answer]] | None = None
        if (base := self._get(self.config_init, "base")) is not None:
            self.model.policy = None  # make room
            of_base = self._evaluate_base(base, folder / "base")
            models.append(EvaluatedModel(base, of_base))
            apart = {name: paired_differences(answers, of_base[name]) for name, answers in outcome.answers.items()}
        if rank() == 0:
            if apart:
                console.print(differences_table(apart))
            found = None if of_a_run or self.is_base else generalization(outcome.answers, of_base)
            if found is not None:
                say(str(found))
            _add_to_scores(folder / f"{command}.json", base, apart, found)
            page, sets = folder / f"{command}.html", self.model.evaluation_sets
            write_evaluation(page, models, apart, sets.prompts, sets.cache.cache_key, self.datamodule.set_aside, found)
            if not of_a_run and not self.is_base:
                beside = "" if base else "\nto compare it with another: the same command with --base MODEL"
                say(f"page: {page}{beside}")

    validate = test

    def _evaluate_base(self, base: str, folder: Path) -> Mapping[str, Sequence[Answer]]:
        """The same command with another model, in a folder of its own."""
        config = self.config.clone()
        settings = config[self.subcommand]
        settings.base, settings.ckpt_path = None, None
        settings.model.init_args.policy.model, settings.model.init_args.policy.revision = base, None
        settings.trainer.default_root_dir = str(folder)
        say(f"the base, {base}:")
        answers: Mapping[str, Sequence[Answer]] = BaseCLI.launch(config).model.outcome.answers
        return answers


class BaseCLI(SpecsCLI):
    """Evaluates the base beside a model."""

    is_base = True


def _add_to_scores(
    file: Path,
    base: str | None,
    apart: Mapping[str, Mapping[str, PairedDifference]],
    found: Generalization | None,
) -> None:
    """What was found of all sets together, and how a model differs from the base, beside the scores of each set."""
    added: dict[str, Any] = {}
    if base is not None:
        differences = {
            name: {measure: asdict(one) for measure, one in of_set.items()} for name, of_set in apart.items()
        }
        added |= {"base": base, "differences": differences}
    if found is not None:
        added["generalization"] = as_json(found)
    if added:
        write_atomically(file, json.dumps(json.loads(file.read_text()) | added, indent=1))
