"""What a stranger may hand over is read and never run: there is a bomb in each kind of file, and none goes off."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from helpers.bombs import MODEL_BOMBS, Bomb
from helpers.command_line import ROOT, refused
from helpers.small_runs import write_prompt_file

from specs_lightning.commands.doctor import model_folder
from specs_lightning.data.check import _encoder
from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.errors import SpecsError
from specs_lightning.modules.checkpoint_files import AtomicCheckpointIO, CheckpointError, check
from specs_lightning.plan.shapes import model_shape
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.parity import plain_model
from specs_lightning.policy.policy import Policy
from specs_lightning.policy.processors import load_processor
from specs_lightning.prompts.encoder import PromptEncoder
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.rollout.sampler import VLLMSettings, _longest
from specs_lightning.settings.yaml_files import read_settings


@pytest.fixture
def bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bomb]:
    """It must not have gone off at the test's end, though whoever is asked says yes."""
    monkeypatch.setattr("builtins.input", lambda *unused: "y")
    planted = Bomb(tmp_path / "went-off")
    yield planted
    assert not planted.went_off


class TestBomb:
    """Or the tests below would show nothing."""

    def test_it_goes_off_when_it_is_unpickled(self, tmp_path: Path) -> None:
        bomb = Bomb(tmp_path / "went-off")
        pickle.loads(bomb.pickled)
        assert bomb.went_off

    def test_it_goes_off_when_it_is_imported(self, tmp_path: Path) -> None:
        bomb = Bomb(tmp_path / "went-off")
        bomb.plant(tmp_path, ["planted"])
        subprocess.run([sys.executable, "-c", "import planted"], cwd=tmp_path, check=True)
        assert bomb.went_off


READERS: dict[str, Callable[[str], Any]] = {
    "policy": lambda model: PromptEncoder(Policy(PolicySettings(model)).processor),
    "processor": lambda model: load_processor(model, takes_images=True),
    "plain model": lambda model: plain_model(model, "cpu"),
    "data check": _encoder,
    "doctor": lambda model: list(model_folder(model)),
    "plan": model_shape,
    "vLLM": _longest,
}
"""All that read a model's folder."""


class TestModel:
    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("place", MODEL_BOMBS)
    def test_of_a_model_folder(
        self, tiny_model_path: Path, tmp_path: Path, bomb: Bomb, place: str, reader: str
    ) -> None:
        folder = Path(shutil.copytree(tiny_model_path, tmp_path / "model"))
        (folder / "bomb.py").write_text(bomb.code)
        MODEL_BOMBS[place](folder, bomb)
        with suppress(SpecsError, ValueError, OSError):  # refused, or read without what is planted
            READERS[reader](str(folder))

    def test_no_call_of_transformers_or_vllm_leaves_it_open(self) -> None:
        """Left open, transformers asks at the terminal, and a pipe answers."""
        silent = [
            f"{file.relative_to(ROOT)}:{call.lineno}"
            for folder in ("specs_lightning", "benchmarks", "docs", "callbacks")
            for file in (ROOT / folder).rglob("*.py")
            for call in ast.walk(ast.parse(file.read_text()))
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in ("from_pretrained", "from_config")
            and not {"trust_remote_code", None} & {keyword.arg for keyword in call.keywords}
        ]
        assert silent == []

    def test_settings_cannot_open_it_for_vllm(self) -> None:
        with pytest.raises(ValueError, match="code that comes with a model is never run"):
            VLLMSettings(arguments={"trust_remote_code": True})


def _parquet(folder: Path, bomb: Bomb) -> Path:
    """Arrow has unpickled types once."""
    kind = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": bomb.pickled}
    columns = [pa.field("question", pa.string(), metadata=kind), pa.field("answer", pa.string(), metadata=kind)]
    table = pa.table([["How many?"], ["2"]], schema=pa.schema(columns))
    pq.write_table(table, folder / "data.parquet")
    return folder / "data.parquet"


def _saved(folder: Path, bomb: Bomb) -> Path:
    saved = folder / "saved"
    Dataset.from_list([{"question": "How many?", "answer": "2"}]).save_to_disk(saved)
    for name in ("saved.py", "dataset_script.py", "__init__.py"):
        (saved / name).write_text(bomb.code)
    (saved / "cache.pkl").write_bytes(bomb.pickled)
    return saved


def _pickled_rows(folder: Path, bomb: Bomb) -> Path:
    for name in ("data.jsonl", "data.csv", "data.parquet", "data.pkl"):
        (folder / name).write_bytes(bomb.pickled)
    return folder / "data.jsonl"


def _pickled_image(folder: Path, bomb: Bomb) -> Path:
    file = write_prompt_file(folder, 2)
    (folder / "0.png").write_bytes(bomb.pickled)
    (folder / "1.png").write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%mkdir {bomb.marker}) (w) file\n")
    return file


def _script(folder: Path, bomb: Bomb) -> str:
    (folder / "scripted").mkdir()
    (folder / "scripted" / "scripted.py").write_text(bomb.code)
    return f"hf:{folder / 'scripted'}"


class TestData:
    @pytest.mark.parametrize("make", [_parquet, _saved, _pickled_rows, _pickled_image, _script])
    def test_of_a_data_set(self, tmp_path: Path, bomb: Bomb, make: Any) -> None:
        (tmp_path / "data").mkdir()
        source = PromptSource(str(make(tmp_path / "data", bomb)))
        with suppress(SpecsError):  # refused, or read without what is planted
            load_prompts(source, SetAside())


class TestCheckpoint:
    @pytest.fixture
    def pickled(self, tmp_path: Path, bomb: Bomb) -> Path:
        torch.save({"step_loop": bomb}, tmp_path / "step=1.ckpt")
        return tmp_path / "step=1.ckpt"

    def test_of_a_file(self, pickled: Path) -> None:
        with pytest.raises(CheckpointError, match="is damaged or no checkpoint"):
            check(pickled)
        with pytest.raises(pickle.UnpicklingError):
            AtomicCheckpointIO().load_checkpoint(pickled, weights_only=False)

    @pytest.mark.parametrize("command", ["test", "predict"])
    def test_of_one_that_a_command_evaluates(
        self, pickled: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = write_prompt_file(tmp_path / "data", 1)
        arguments = (
            "--model=specs_lightning.modules.GRPOModule",
            "--model.policy.model=toy:base",
            "--data=specs_lightning.data.EvaluationDataModule",
            f"--data.evaluation={json.dumps({'a': {'path': str(file)}})}",
            f"--trainer.default_root_dir={tmp_path}",
            f"--ckpt_path={pickled}",
            "--weights_only=false",
        )
        assert "is damaged or no checkpoint" in refused(capsys, command, *arguments)

    def test_of_settings_that_a_checkpoint_brings(
        self, tmp_path: Path, bomb: Bomb, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lightning takes the model's class from a checkpoint that names one."""
        bomb.plant(tmp_path, ["planted_by_a_checkpoint"])
        monkeypatch.syspath_prepend(tmp_path)
        brought = {"_class_path": "planted_by_a_checkpoint.Module", "policy": {"model": "toy:base"}}
        torch.save({"step_loop": {}, "hyper_parameters": brought}, tmp_path / "a.ckpt")
        arguments = (
            "--model=specs_lightning.modules.GRPOModule",
            "--model.policy.model=toy:base",
            "--data=specs_lightning.data.RolloutDataModule",
            f"--data.train.path={tmp_path / 'missing.jsonl'}",
            f"--trainer.default_root_dir={tmp_path}",
            f"--ckpt_path={tmp_path / 'a.ckpt'}",
        )
        assert "missing.jsonl" in refused(capsys, "fit", *arguments)


class TestSettings:
    @pytest.mark.parametrize("command", ["fit", "run", "distill", "compare", "plan", "data check"])
    def test_of_a_settings_file(
        self, tmp_path: Path, bomb: Bomb, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "settings.yaml"
        file.write_text(f"trainer: {bomb.yaml}\nstages: {bomb.yaml}\nprompts: {bomb.yaml}\n")
        with pytest.raises(SpecsError):
            read_settings(file)
        given = {"compare": [str(file)], "data check": [f"--config=[{file}]"]}.get(command, [f"--config={file}"])
        refused(capsys, *command.split(), *given)

    @pytest.mark.parametrize(
        "setting", ["model", "data", "data.rewards", "data.engine", "trainer.callbacks", "optimizer"]
    )
    def test_a_class_path_of_another_kind_is_refused(
        self, tmp_path: Path, bomb: Bomb, setting: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Class paths name what is called: of the kind that the setting asks for, and nothing else."""
        call = json.dumps({"class_path": "os.mkdir", "init_args": {"path": str(bomb.marker)}})
        settings = {
            "model": "specs_lightning.modules.GRPOModule",
            "model.policy.model": "toy:base",
            "data": "specs_lightning.data.RolloutDataModule",
            "data.train.path": str(tmp_path / "missing.jsonl"),
            "trainer.default_root_dir": str(tmp_path),
        }
        if setting in ("data.rewards", "trainer.callbacks"):
            call = f"[{call}]"
        others = {name: value for name, value in settings.items() if not f"{name}.".startswith(f"{setting}.")}
        refused(capsys, "fit", *(f"--{name}={value}" for name, value in others.items()), f"--{setting}={call}")

    @pytest.mark.parametrize(
        ("name", "form"),
        [
            ("model.optimizer", "{}"),
            ("model.optimizer", "{{class_path: torch.optim.AdamW, init_args: {{betas: {}}}}}"),
            ("data.judge", "{{model: judge, base_url: 'http://localhost:1/v1', request: {{further: {}}}}}"),
            ("data.engine", "{{class_path: specs_lightning.rollout.VLLMEngine, init_args: {{arguments: {{a: {}}}}}}}"),
        ],
    )
    @pytest.mark.parametrize("function", ["torch.save", "os.mkdir"])
    def test_a_function_is_not_called(
        self, tmp_path: Path, bomb: Bomb, name: str, form: str, function: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Where any callable would do, or any value."""
        arguments = {"obj": "text", "f": str(bomb.marker)} if function == "torch.save" else {"path": str(bomb.marker)}
        call = json.dumps({"class_path": function, "init_args": arguments})
        refused(
            capsys,
            "fit",
            "--model=specs_lightning.modules.GRPOModule",
            "--model.policy.model=toy:base",
            "--data=specs_lightning.data.RolloutDataModule",
            f"--data.train.path={tmp_path / 'missing.jsonl'}",
            f"--trainer.default_root_dir={tmp_path}",
            f"--{name}={form.format(call)}",
        )


PLANTED = (
    "jinja2",
    "matplotlib",
    "pydantic",
    "rich",
    "yaml",
    "numpy",
    "torch",
    "transformers",
    "lightning",
    "datasets",
)


class TestWorkingFolder:
    @pytest.mark.parametrize("command", [("report", "."), ("run", "--help"), ("fit", "--help"), ("doctor", "--help")])
    def test_of_a_run_folder_that_is_worked_in(self, tmp_path: Path, bomb: Bomb, command: tuple[str, ...]) -> None:
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"name": "downloaded", "stages": []}))
        bomb.plant(folder, PLANTED)
        specs = Path(sys.executable).with_name("specs")
        ended = subprocess.run([specs, *command], cwd=folder, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr

    def test_as_a_module_too(self, tmp_path: Path, bomb: Bomb) -> None:
        bomb.plant(tmp_path, PLANTED)
        (tmp_path / "run.json").write_text(json.dumps({"name": "downloaded", "stages": []}))
        subprocess.run([sys.executable, "-m", "specs_lightning", "report", "."], cwd=tmp_path, check=True, timeout=300)

    def test_of_a_process_that_a_command_starts(self, tmp_path: Path, bomb: Bomb) -> None:
        """The one that stages are forked from is started with `-c`, which looks into the working folder first."""
        bomb.plant(tmp_path, (*PLANTED, "selectors", "socket"))
        (tmp_path / "settings.yaml").write_text("stages: {}\n")
        specs = Path(sys.executable).with_name("specs")
        subprocess.run([specs, "run", "--config=settings.yaml"], cwd=tmp_path, capture_output=True, timeout=300)
