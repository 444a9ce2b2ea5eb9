"""`specs export`: a checkpoint of any kind becomes the folder that the end of its training would have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import refused, specs
from helpers.small_runs import write_pair_file
from helpers.small_trainings import in_shards
from huggingface_hub.errors import HFValidationError
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from specs_lightning.commands import export as command

BEST = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {filename: best}}"


def trained(model: Path, folder: Path, *settings: str) -> Path:
    """The folder of a cold start of two steps, from a copy of a model."""
    in_shards(
        specs,
        "fit",
        "--config=configs/toy/cold_start.yaml",
        f"--model.policy.model={model}",
        f"--data.train={write_pair_file(folder)}",
        "--data.batch_size=4",
        f"--trainer.default_root_dir={folder / 'run'}",
        f"--trainer.callbacks=[{BEST}]",
        *settings,
    )
    return folder / "run"


@pytest.fixture(scope="module")
def run(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tiny_model_path, tmp_path_factory.mktemp("exported"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "settings",
    [(), ("--trainer.strategy=fsdp2",), ("--model.policy.lora={rank: 4}",)],
    ids=["whole", "shards", "adapters"],
)
def test_the_model_is_that_of_the_end_of_its_training(
    tiny_model_path: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    run = trained(tiny_model_path, tmp_path, *settings)
    specs("export", run)
    expected, found = weights(run / "model"), weights(run / "model-step=2")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {file.name for file in (run / "model-step=2").iterdir()} == {f.name for f in (run / "model").iterdir()}


def test_what_a_model_checkpoint_kept_as_the_best_can_be_exported(run: Path, tmp_path: Path) -> None:
    specs("export", run / "checkpoints" / "best.ckpt", f"--output={tmp_path / 'best'}")
    AutoModelForImageTextToText.from_pretrained(tmp_path / "best")
    card = (tmp_path / "best" / "README.md").read_text()
    assert "exported from `best.ckpt`" in card and "## Scores" not in card


def test_the_card_has_the_scores_of_the_checkpoint_and_of_no_other(run: Path, tmp_path: Path) -> None:
    scores = {"id": {"n": 4, "correct": 0.5, "intervals": {"correct": [0.15, 0.85]}}}
    file = run / "checkpoints" / "step=2.ckpt"
    (run / "test.json").write_text(json.dumps({"model": "m", "checkpoint": str(file), "sets": scores}))
    specs("export", file, f"--output={tmp_path / 'one'}")
    assert "| `id` | 4 | 50.0 (15.0 to 85.0) | – | – |" in (tmp_path / "one" / "README.md").read_text()
    specs("export", run / "checkpoints" / "best.ckpt", f"--output={tmp_path / 'other'}")
    assert "50.0" not in (tmp_path / "other" / "README.md").read_text()


def test_a_folder_that_holds_something_is_not_written_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    assert "is there already: give another --output" in refused(capsys, "export", run, f"--output={tmp_path}")
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_adapters_are_never_put_on_another_model(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "base"
    place.symlink_to(tiny_model_path)
    run = trained(place, tmp_path, "--model.policy.lora={rank: 4}")
    place.unlink()
    assert f"beside the model {place}, which is not there" in refused(capsys, "export", run)
    specs("export", run, f"--model={tiny_model_path}")
    expected, found = weights(run / "model"), weights(run / "model-step=2")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


class Hub:
    """In place of huggingface_hub's HfApi: nothing leaves the machine."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo_id: str, **settings: Any) -> Any:
        if "/" not in repo_id:
            raise HFValidationError("no such name")
        self.calls.append(("create_repo", settings))
        return type("Url", (str,), {"repo_id": repo_id})(f"hub:{repo_id}")

    def upload_folder(self, **settings: Any) -> None:
        self.calls.append(("upload_folder", settings))


def test_the_folder_goes_to_the_hub_by_its_own_client(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub()
    monkeypatch.setattr(command, "HfApi", lambda: hub)
    specs("export", run, f"--output={tmp_path / 'm'}", "--push_to_hub=me/first")
    (made, settings), (sent, what) = hub.calls
    assert (made, settings) == ("create_repo", {"private": True, "exist_ok": True})
    assert sent == "upload_folder" and (what["folder_path"], what["repo_id"]) == (tmp_path / "m", "me/first")
    assert "on the hub: hub:me/first" in capsys.readouterr().out
    told = refused(capsys, "export", run, f"--output={tmp_path / 'n'}", "--push_to_hub=first")
    assert f"hub did not take first: no such name. The model is in {tmp_path / 'n'}" in told
    assert (tmp_path / "n" / "model.safetensors").exists()
