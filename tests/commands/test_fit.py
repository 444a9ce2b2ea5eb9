"""LightningCLI as `specs` uses it: settings from files and overrides, going on, evaluation, and what is refused."""

from __future__ import annotations

import csv
import errno
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.command_line import EXPORT_ALONE, ROOT, refused, specs
from helpers.small_runs import write_pair_file, write_prompt_file
from helpers.small_trainings import in_shards
from transformers import AutoModelForImageTextToText

from specs_lightning.records.answers import read_answers
from specs_lightning.records.metrics import SPEED
from specs_lightning.system.folder_lock import LOCK_FILE
from specs_lightning.system.signals import INTERRUPTED, STOPPED

COLD_START, GRPO = "configs/toy/cold_start.yaml", "configs/toy/grpo.yaml"


BEST = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {filename: best}}"


def evaluation_commands() -> list[str]:
    """Those that the header of the toy's evaluation names."""
    lines = (ROOT / "configs" / "toy" / "evaluate.yaml").read_text().splitlines()
    return [line.removeprefix("#").strip() for line in lines if line.startswith("#   specs ")]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair_file(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def cold_start(tiny_model_path: Path, pairs: Path, tmp_path: Path) -> tuple[str, ...]:
    """Arguments of a cold start of two steps."""
    return (
        "fit",
        f"--config={COLD_START}",
        f"--model.policy.model={tiny_model_path}",
        f"--data.train={pairs}",
        "--data.batch_size=4",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        EXPORT_ALONE,
    )


def metrics(folder: Path, name: str = "metrics") -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def figures(folder: Path) -> list[dict[str, str]]:
    """What was logged, without how long it took."""
    return [{name: value for name, value in row.items() if not name.startswith(SPEED)} for row in metrics(folder)]


def saved(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


class TestFit:
    def test_an_override_is_saved_and_logged(self, cold_start: tuple[str, ...], tmp_path: Path) -> None:
        specs(*cold_start, "--model.objective.init_args.sft_weight=0")
        config = saved(tmp_path / "run")
        assert config["model"]["init_args"]["objective"]["init_args"]["sft_weight"] == 0
        assert config["seed_everything"] == 0
        assert "ckpt_path" not in config
        rows = metrics(tmp_path / "run")
        assert [int(row["step"]) for row in rows] == [0, 1]
        assert [float(row["train/sft_weight"]) for row in rows] == [0, 0]
        AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "model")

    def test_the_objective_is_changed_in_one_argument(self, cold_start: tuple[str, ...], tmp_path: Path) -> None:
        specs(*cold_start, "--model.objective", "specs_lightning.objectives.SFT")
        assert saved(tmp_path / "run")["model"]["init_args"]["objective"]["class_path"].endswith("SFT")
        assert "train/dpo_loss" not in metrics(tmp_path / "run")[0]

    def test_the_saved_settings_give_the_same_run_again(self, cold_start: tuple[str, ...], tmp_path: Path) -> None:
        specs(*cold_start, "--seed_everything=7", "--data.seed=7")
        first = figures(tmp_path / "run")
        specs("fit", f"--config={tmp_path / 'run' / 'config.yaml'}")
        assert figures(tmp_path / "run") == first

    def test_a_later_file_wins_over_an_earlier_one(self, cold_start: tuple[str, ...], tmp_path: Path) -> None:
        (tmp_path / "more.yaml").write_text("data:\n  init_args:\n    batch_size: 2\ntrainer:\n  max_steps: 1\n")
        command, first, *others = cold_start
        others.remove("--data.batch_size=4")
        specs(command, first, f"--config={tmp_path / 'more.yaml'}", *others)
        config = saved(tmp_path / "run")
        assert config["data"]["init_args"]["batch_size"] == 2
        assert config["model"]["init_args"]["reference"] == "cached"  # the first file's
        assert len(metrics(tmp_path / "run")) == 1

    def test_a_file_may_extend_another(self, cold_start: tuple[str, ...], tmp_path: Path) -> None:
        settings = {
            "extends": COLD_START,
            "model": {"init_args": {"objective": {"class_path": "specs_lightning.objectives.SFT"}}},
            "trainer": {"max_steps": 1},
        }
        (tmp_path / "sft.yaml").write_text(yaml.safe_dump(settings))
        command, _, *others = cold_start
        specs(command, f"--config={tmp_path / 'sft.yaml'}", *others)
        config = saved(tmp_path / "run")
        assert config["model"]["init_args"]["objective"]["class_path"].endswith("SFT")
        assert config["model"]["init_args"]["reference"] == "cached"  # the other file's
        assert len(metrics(tmp_path / "run")) == 1

    def test_a_class_of_the_working_directory_is_found(self, cold_start: tuple[str, ...], tmp_path: Path) -> None:
        (tmp_path / "my_callbacks.py").write_text(
            "from pathlib import Path\nfrom lightning.pytorch import Callback\n\n\nclass Note(Callback):\n"
            "    def __init__(self, text: str) -> None:\n        self.text = text\n\n"
            "    def on_train_end(self, trainer, pl_module):\n        Path(self.text).write_text('seen')\n"
        )
        args = [arg.replace(COLD_START, str(ROOT / COLD_START)) for arg in cold_start[:-1]]
        note = "--trainer.callbacks=[{class_path: my_callbacks.Note, init_args: {text: note.txt}}]"
        specs(*args, note, cwd=tmp_path)
        assert (tmp_path / "note.txt").read_text() == "seen"


class TestModel:
    @pytest.mark.parametrize("further", ["--trainer.callbacks=[]", "--trainer.enable_checkpointing=false"])
    def test_every_training_leaves_one_with_a_card(
        self, cold_start: tuple[str, ...], tmp_path: Path, further: str
    ) -> None:
        specs(*cold_start[:-1], "--trainer.callbacks=null", further)
        AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "model")
        assert "specs_lightning.objectives.DPO" in (tmp_path / "run" / "model" / "README.md").read_text()
        modes = {file.stat().st_mode for file in (tmp_path / "run" / "model").iterdir()}
        assert modes == {(tmp_path / "run" / "metrics.csv").stat().st_mode}

    def test_it_is_told_with_the_command_that_scores_it(
        self, cold_start: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        specs(*cold_start)
        told = capsys.readouterr().out
        assert f"model: {tmp_path / 'run' / 'model'}\n" in told
        assert f"specs test --config YOUR_SETS.yaml --model.policy.model {tmp_path / 'run' / 'model'}" in told

    def test_a_try_of_one_step_leaves_none(self, cold_start: tuple[str, ...], tmp_path: Path) -> None:
        specs(*cold_start[:-1], "--trainer.callbacks=null", "--trainer.fast_dev_run=true")
        assert not (tmp_path / "run" / "model").exists()

    @pytest.mark.parametrize("strategy", ["auto", "fsdp2"])
    def test_a_second_training_does_not_leave_the_old_one_beside_new_metrics(
        self, cold_start: tuple[str, ...], tmp_path: Path, strategy: str
    ) -> None:
        """Nor the checkpoints, which another training would be taken to go on from, or `best` to be of."""
        (tmp_path / "fails.py").write_text(
            "from lightning.pytorch import Callback\n\nclass Fails(Callback):\n"
            "    def on_train_batch_end(self, *unused):\n        raise KeyError('in the second')\n"
        )
        run = tmp_path / "run"
        args = [arg.replace(COLD_START, str(ROOT / COLD_START)) for arg in cold_start[:-1]]
        args.append(f"--trainer.strategy={strategy}")
        in_shards(lambda: specs(*args, f"--trainer.callbacks=[{BEST}]", cwd=tmp_path))
        old = {file.name: file.read_bytes() for file in (run / "model").iterdir()}
        further = "--data.batch_size=3", "--trainer.callbacks=[{class_path: fails.Fails}]"
        with pytest.raises(KeyError):
            in_shards(lambda: specs(*args, *further, cwd=tmp_path))
        assert not (run / "model").exists()
        assert {file.name: file.read_bytes() for file in (run / "model.1").iterdir()} == old
        assert {file.name for file in (run / "checkpoints.1").iterdir()} == {"best.ckpt", "step=2.ckpt"}
        assert not (run / "checkpoints" / "best.ckpt").exists()


CHECKPOINTS = "{class_path: specs_lightning.callbacks.Checkpoints}"
TERMINATED = """
import os, signal
from pathlib import Path
from lightning.pytorch import Callback

class Terminated(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1 and not Path("terminated").exists():
            Path("terminated").touch()
            os.kill(os.getpid(), signal.SIGTERM)

class Interrupted(Terminated):
    def on_train_batch_start(self, *args):
        os.kill(os.getpid(), signal.SIGINT)

    on_test_batch_start = on_train_batch_start
"""
WRITER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
input()
"""


class TestGoingOn:
    def test_from_the_last_checkpoint_if_there_is_one(
        self, cold_start: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """SIGTERM saves, and has a status of its own."""
        (tmp_path / "ends.py").write_text(TERMINATED)
        args = [arg.replace(COLD_START, str(ROOT / COLD_START)) for arg in cold_start[:-1]]
        command = (*args, "--ckpt_path=last", "--trainer.callbacks=[{class_path: ends.Terminated}]")
        with pytest.raises(SystemExit) as exit:
            specs(*command, cwd=tmp_path)
        assert exit.value.code == STOPPED == 75
        told = "stopped by SIGTERM. The same command with --ckpt_path last goes on from there."
        assert told in capsys.readouterr().err
        (first,) = metrics(tmp_path / "run")
        specs(*command, cwd=tmp_path)
        assert [row["step"] for row in metrics(tmp_path / "run")] == ["0", "1"]
        assert metrics(tmp_path / "run")[0] == first
        specs(*command, cwd=tmp_path)
        assert "step=2.ckpt is at the end of its training" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize("command", ["fit", "test"])
    def test_ctrl_c_says_how_to_go_on(
        self, cold_start: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        """Lightning ends by an exit of its own, and has further ones ignored."""
        (tmp_path / "ends.py").write_text(TERMINATED)
        further = ("--trainer.callbacks=[{class_path: ends.Interrupted}]",)
        args = [arg.replace(COLD_START, str(ROOT / COLD_START)) for arg in cold_start[:-1]]
        if command == "test":
            args = ["test", f"--config={ROOT / 'configs/toy/evaluate.yaml'}", f"--trainer.default_root_dir={tmp_path}"]
        before = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(SystemExit) as exit:
                specs(*args, *further, cwd=tmp_path)
        finally:
            signal.signal(signal.SIGINT, before)
        assert exit.value.code == INTERRUPTED
        how = "The same command with --ckpt_path last goes" if command == "fit" else "The same command goes"
        assert capsys.readouterr().err.splitlines()[-1] == f"specs {command}: interrupted. {how} on from there."

    def test_with_other_settings_it_is_refused(
        self, cold_start: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        specs(*cold_start)
        assert "model.max_grad_norm: 1.0 -> 2.0" in refused(
            capsys, *cold_start, "--ckpt_path=last", "--model.max_grad_norm=2.0"
        )

    def test_a_second_run_in_the_same_folder_is_refused(
        self, cold_start: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "run").mkdir()
        command = [sys.executable, "-c", WRITER, str(tmp_path / "run" / LOCK_FILE)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
            assert first.stdout is not None and first.stdout.readline()
            told = refused(capsys, *cold_start)
            first.kill()
        assert "run is being written to by another process: wait for its end, or give this run another folder" in told
        assert not (tmp_path / "run" / "config.yaml").exists()

    @pytest.mark.parametrize("callbacks", ["null", "[MINE]", "[BEST]", "[MINE, BEST]"])
    def test_there_are_always_checkpoints_to_go_on_from(
        self, cold_start: tuple[str, ...], tmp_path: Path, callbacks: str
    ) -> None:
        """What is kept as the best by some figure lies beside them."""
        given = callbacks.replace("MINE", CHECKPOINTS).replace("BEST", BEST)
        specs(*cold_start[:-1], f"--trainer.callbacks={given}")
        kept = {file.name for file in (tmp_path / "run" / "checkpoints").iterdir()}
        assert kept == {"step=2.ckpt"} | ({"best.ckpt"} if "BEST" in callbacks else set())

    def test_unless_they_are_not_wanted(self, cold_start: tuple[str, ...], tmp_path: Path) -> None:
        specs(*cold_start, "--trainer.enable_checkpointing=false")
        assert not (tmp_path / "run" / "checkpoints").exists()

    def test_a_full_disk_is_no_crash(
        self, cold_start: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*unused: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "model")

        monkeypatch.setattr("specs_lightning.policy.policy.Policy.save", full)
        told = refused(capsys, *cold_start)
        said = f"specs fit: No space left on device for model in {ROOT}. Make room. The same command with"
        assert said in told

    def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_done(
        self, cold_start: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "run").touch()
        assert f"nothing can be written to {tmp_path / 'run'} (" in refused(capsys, *cold_start, "--data.train=missing")

    @pytest.mark.parametrize("point", ["on_train_start", "on_train_batch_end", "on_train_end"])
    def test_one_in_which_a_callback_exits_has_not_ended_well(
        self, cold_start: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], point: str
    ) -> None:
        (tmp_path / "exits.py").write_text(
            "import sys\nfrom lightning.pytorch import Callback\n\n\nclass Exits(Callback):\n"
            f"    def {point}(self, *unused):\n        sys.exit(0)\n"
        )
        args = [arg.replace(COLD_START, str(ROOT / COLD_START)) for arg in cold_start[:-1]]
        with pytest.raises(SystemExit) as exit:
            specs(*args, "--trainer.callbacks=[{class_path: exits.Exits}]", cwd=tmp_path)
        assert "something called sys.exit() before it was done" in str(exit.value.code)
        assert not (tmp_path / "run" / "model").exists()


class TestErrors:
    @pytest.mark.parametrize(
        ("argument", "named"),
        [
            ("--model.init_args.policy.modle=x", "modle"),
            ("--model.objective.init_args.sft_wieght=0", "sft_wieght"),
            ("--data.init_args.bach_size=4", "bach_size"),
            ("--trainer.max_stepz=4", "max_stepz"),
            ("--data.batch_size=many", "batch_size"),
            ("--model.reference=remembered", "remembered"),
            ("--model.objective.init_args.beta=-1", "beta must be positive"),
            ("--data.batch_size=0", "batch_size must be positive"),
            ("--model.objective=specs_lightning.objectives.Nothing", "Nothing"),
            ("--data.batch_size=many", "data.batch_size: expected int, got 'many'\n"),
            ("--model.objective.init_args.sft_wieght=0", "Did you mean sft_weight?\n"),
            ("--config=configs/toy/missing.yaml", "missing.yaml"),
            ("--config=configs/toy/smoke.yaml", "another command: specs run --config configs/toy/smoke.yaml"),
            ("--data.train=missing.parquet", "missing.parquet"),
            ("--model.policy.model=./no/such/model", "no/such/model"),
            ("--trainer.gradient_clip_val=1", "set model.max_grad_norm"),
            ("--trainer.accumulate_grad_batches=2", "set data.batch_size"),
            ("--trainer.strategy=nosuch", "nosuch"),
            (
                "--data.engine=vllm",
                "no class vllm: give its whole path, specs_lightning.rollout.VLLMEngine",
            ),
            ("--trainer.logger=wandb", "lightning.pytorch.loggers.WandbLogger\n"),
            ("--trainer.logger=lightning.pytorch.loggers.CometLogger", "comet"),
        ],
    )
    @pytest.mark.bad_input("command lines")
    def test_they_name_what_is_wrong(
        self, cold_start: tuple[str, ...], capsys: pytest.CaptureFixture[str], argument: str, named: str
    ) -> None:
        message = refused(capsys, *cold_start, argument)
        assert named in message
        assert message.startswith("specs fit: ") and "Traceback" not in message
        assert len(message.splitlines()) <= 4

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    @pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
    def test_they_say_what_to_do_without_a_gpu(
        self, cold_start: tuple[str, ...], capsys: pytest.CaptureFixture[str], accelerator: str
    ) -> None:
        message = refused(capsys, *cold_start, f"--trainer.accelerator={accelerator}")
        assert "give --trainer.accelerator cpu, or auto" in message and len(message.splitlines()) == 2

    def test_in_a_file_too(
        self, cold_start: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "wrong.yaml").write_text("model:\n  init_args:\n    max_gradient_norm: 1.0\n")
        message = refused(capsys, cold_start[0], cold_start[1], f"--config={tmp_path / 'wrong.yaml'}")
        assert "max_gradient_norm" in message and "max_grad_norm" in message


class TestEvaluation:
    @pytest.fixture
    def evaluated(self, tiny_model_path: Path, tmp_path: Path) -> tuple[str, ...]:
        file = write_prompt_file(tmp_path / "data", 4)
        sets = {"id": {"path": str(file)}, "ood": {"path": str(file), "answer_format": "boxed", "limit": 3}}
        return (
            f"--config={GRPO}",
            f"--model.policy.model={tiny_model_path}",
            f"--trainer.default_root_dir={tmp_path / 'run'}",
            "--trainer.callbacks=[]",
            f"--data.evaluation={json.dumps(sets)}",
            "--data.evaluation_sampling={completions_per_prompt: 1, max_tokens: 4}",
        )

    @pytest.mark.parametrize("command", ["validate", "test"])
    def test_models_are_scored_on_every_set_with_intervals(
        self, evaluated: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        specs(command, *evaluated)
        shown = capsys.readouterr().out
        assert "Rates in percent with 95 % intervals" in shown and "Validate metric" not in shown
        (row,) = metrics(tmp_path / "run", f"metrics_{command}")
        scores = json.loads((tmp_path / "run" / f"{command}.json").read_text())["sets"]
        assert [scores[name]["n"] for name in ("id", "ood")] == [4, 3]
        for name in ("id", "ood"):
            for measure in ("solved", "correct", "format_kept"):
                low, high = scores[name]["intervals"][measure]
                assert 0 <= low <= float(row[f"{name}/{measure}"]) <= high <= 1
                assert float(row[f"{name}/{measure}_high"]) == pytest.approx(high)

    def test_how_much_a_model_explores_is_scored_where_asked(self, evaluated: tuple[str, ...], tmp_path: Path) -> None:
        specs("test", *evaluated, "--data.evaluation_sampling.completions_per_prompt=2")
        assert "rollout_branching_factor" not in json.loads((tmp_path / "run" / "test.json").read_text())["sets"]["id"]
        specs(
            "test",
            *evaluated,
            "--data.evaluation_sampling.completions_per_prompt=2",
            "--data.evaluation_with_choice=true",
        )
        scores = json.loads((tmp_path / "run" / "test.json").read_text())["sets"]["id"]
        assert (scores["n"], scores["answers"]) == (4, 8)
        assert scores["pass_at_k"]["1"] <= scores["pass_at_k"]["2"]
        for name in ("entropy", "rollout_branching_factor"):
            low, high = scores["intervals"][name]
            assert low <= scores[name] <= high
        assert scores["rollout_branching_factor"] > 1

    def test_a_checkpoint_of_any_training_can_be_scored(
        self, evaluated: tuple[str, ...], cold_start: tuple[str, ...], tmp_path: Path
    ) -> None:
        """The cold start's, by the settings of a GRPO: the same answers as the exported model's."""
        specs(*cold_start)
        specs("predict", *evaluated, f"--ckpt_path={tmp_path / 'run' / 'checkpoints' / 'step=2.ckpt'}")
        by_checkpoint = (tmp_path / "run" / "predictions.jsonl").read_text()
        others = [arg for arg in evaluated if "policy.model" not in arg]
        specs("predict", *others, f"--model.policy.model={tmp_path / 'run' / 'model'}")
        assert (tmp_path / "run" / "predictions.jsonl").read_text() == by_checkpoint
        specs("predict", *evaluated)
        assert (tmp_path / "run" / "predictions.jsonl").read_text() != by_checkpoint

    @pytest.mark.parametrize(("command", "asked"), [("test", "last"), ("validate", "best"), ("predict", "FOLDER")])
    def test_the_checkpoint_that_is_asked_for_is_the_one_that_answers(
        self, evaluated: tuple[str, ...], cold_start: tuple[str, ...], tmp_path: Path, command: str, asked: str
    ) -> None:
        """Not the base, with which the evaluation's settings begin."""
        specs(*cold_start[:-1], f"--trainer.callbacks=[{BEST}]")
        kept = tmp_path / "run" / "checkpoints" / ("best.ckpt" if asked == "best" else "step=2.ckpt")
        asked = str(tmp_path / "run") if asked == "FOLDER" else asked
        file = tmp_path / "run" / ("predictions.jsonl" if command == "predict" else f"{command}_answers.jsonl")
        specs(command, *evaluated, f"--ckpt_path={kept}")
        expected = file.read_text()
        specs(command, *evaluated, f"--ckpt_path={asked}")
        assert file.read_text() == expected
        specs(command, *evaluated)
        assert file.read_text() != expected

    @pytest.mark.parametrize(
        ("command", "asked"), [("test", "last"), ("validate", "best"), ("predict", "no/such.ckpt")]
    )
    @pytest.mark.bad_input("checkpoints")
    def test_a_checkpoint_that_is_not_there_is_refused(
        self, evaluated: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, asked: str
    ) -> None:
        message = refused(capsys, command, *evaluated, f"--ckpt_path={asked}")
        assert "no checkpoint to use in" in message or f"{asked.removesuffix('.ckpt')}.ckpt does not exist" in message
        assert "Traceback" not in message
        assert not list((tmp_path / "run").glob("*.json*"))

    @pytest.mark.parametrize(
        "training",
        [("--trainer.strategy=fsdp2",), ("--model.policy.lora={rank: 4}",)],
        ids=["shards", "adapters"],
    )
    def test_of_a_checkpoint_of_parts_the_rest_is_what_it_was_trained_with(
        self, evaluated: tuple[str, ...], cold_start: tuple[str, ...], tmp_path: Path, training: tuple[str, ...]
    ) -> None:
        """Whatever model the evaluation's settings name, and with no word of adapters or shards in them."""
        in_shards(specs, *cold_start, *training)
        others = [arg for arg in evaluated if "policy.model" not in arg]
        file = tmp_path / "run" / "predictions.jsonl"
        specs("predict", *others, f"--model.policy.model={tmp_path / 'run' / 'model'}")
        expected = [answer.text for answer in read_answers(file)]
        specs("predict", *others, "--model.policy.model=toy:base", "--ckpt_path=last")
        assert [answer.text for answer in read_answers(file)] == expected

    def test_the_generalization_factor_is_shown_and_kept(
        self, evaluated: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        specs("test", *evaluated)
        assert "Generalization Factor 0.000 (0.000 to 0.000), of scores, for want" in capsys.readouterr().out
        specs("test", *evaluated, "--base=toy:base")
        shown = capsys.readouterr().out
        assert shown.count("Generalization Factor") == 1 and "of gains over the base: solved, ID " in shown
        found = json.loads((tmp_path / "run" / "test.json").read_text())["generalization"]
        assert found["gain"] == "difference" and found["gain_id"] <= 0 and len(found["intervals"]["gain_ood"]) == 2

    @pytest.mark.parametrize("command", evaluation_commands())
    def test_every_command_in_the_header_of_the_toys_evaluation_works(
        self, evaluated: tuple[str, ...], cold_start: tuple[str, ...], tmp_path: Path, command: str
    ) -> None:
        specs(*cold_start)
        folder, *few = evaluated[2], *evaluated[4:]
        args = command.replace("runs/toy/final", str(tmp_path / "run")).split()[1:]
        specs(*args, folder, *few)
        assert json.loads((tmp_path / "run" / "test.json").read_text())["sets"]["id"]["n"] == 4

    def test_answers_are_written_and_can_be_a_baseline(
        self, evaluated: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        specs("predict", *evaluated)
        answers = read_answers(tmp_path / "run" / "predictions.jsonl")
        assert f"{len(answers)} answers: {tmp_path / 'run' / 'predictions.jsonl'}" in capsys.readouterr().out
        assert [(a.set, a.prompt_id) for a in answers] == [("id", f"p{i}") for i in range(4)] + [
            ("ood", f"p{i}") for i in range(3)
        ]

    @pytest.mark.parametrize("command", ["validate", "test", "predict"])
    @pytest.mark.bad_input("evaluation sets")
    def test_without_sets_the_error_says_what_to_give(
        self, evaluated: tuple[str, ...], capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        message = refused(capsys, command, *[arg for arg in evaluated if "data.evaluation=" not in arg])
        assert message.startswith(f"specs {command}: {command} needs evaluation sets: give data.evaluation, sources by")
