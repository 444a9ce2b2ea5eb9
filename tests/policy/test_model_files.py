"""A model is found where it lies, and where there is none it says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.other_content import other_weights

from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.model_files import (
    BadModel,
    ModelNotFound,
    _snapshot,
    model_digest,
    model_source,
    same_model,
)
from specs_lightning.policy.policy import Policy


class TestSource:
    @pytest.mark.parametrize("wrong", ["./missing", "runs/of/mine/missing"])
    def test_a_missing_folder_is_named(self, wrong: str) -> None:
        with pytest.raises(FileNotFoundError, match=rf"{wrong} is no model folder: nothing is there"):
            Policy(PolicySettings(wrong))

    def test_a_folder_without_a_model_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="is no model folder"):
            Policy(PolicySettings(str(tmp_path)))

    def test_a_path_from_the_home_folder_is_found(self, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tiny_model_path.parent))
        assert Policy(PolicySettings(f"~/{tiny_model_path.name}")).source == str(tiny_model_path)


class TestRevision:
    """Of a model on the hub; what is asked of the hub is looked at in its place."""

    @pytest.fixture
    def asked(self, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
        """The downloads that are asked for: each gives a copy of the tiny model, called by a commit as the hub does."""
        calls: list[tuple[str, str]] = []

        def snapshot_download(name: str, *, revision: str, allow_patterns: list[str]) -> str:
            calls.append((name, revision))
            assert not any(pattern.endswith((".py", ".bin")) for pattern in allow_patterns)
            return str(shutil.copytree(tiny_model_path, tmp_path / "snapshots" / "c0ffee", dirs_exist_ok=True))

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        _snapshot.cache_clear()
        return calls

    def test_it_is_what_is_read(self, asked: list[tuple[str, str]], tmp_path: Path) -> None:
        policy = Policy(PolicySettings("org/name", revision="v1.0", lora=LoRASettings(rank=2)))
        assert asked == [("org/name", "v1.0")]
        assert policy.source == str(tmp_path / "snapshots" / "c0ffee")
        assert model_digest(policy.settings.pinned) == "org/name@c0ffee"  # which every checkpoint has
        folder = policy.save_adapter(tmp_path / "model-adapter")
        written = json.loads((Path(str(folder)) / "adapter_config.json").read_text())
        assert (written["base_model_name_or_path"], written["revision"]) == ("org/name", "v1.0")

    def test_a_name_may_have_it_behind(self, asked: list[tuple[str, str]]) -> None:
        assert model_source("org/name@refs/pr/1").endswith("c0ffee")
        assert asked == [("org/name", "refs/pr/1")]

    def test_one_that_the_hub_does_not_have_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def snapshot_download(name: str, **asked: Any) -> str:
            raise OSError(f"no revision {asked['revision']}")

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        _snapshot.cache_clear()
        with pytest.raises(BadModel, match=r"org/name cannot be used: no revision v2\. What to do: .* on the hub"):
            model_source("org/name@v2")

    def test_a_folder_has_none(self, tiny_model_path: Path) -> None:
        for place in (str(tiny_model_path), "toy:base"):
            with pytest.raises(ValueError, match=r"revision v1 is of a model on the hub, and .* is a folder: leave it"):
                PolicySettings(place, revision="v1")

    def test_a_folder_may_have_an_at_in_its_name(self, tiny_model_path: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(tiny_model_path, tmp_path / "mine@home")
        assert model_source(str(folder)) == str(folder)


class TestDigest:
    """What a model is, wherever it lies and whatever it is called."""

    def test_a_copy_is_the_same_model_and_one_of_other_weights_is_not(
        self, tiny_model_path: Path, tmp_path: Path
    ) -> None:
        copy = Path(shutil.copytree(tiny_model_path, tmp_path / "renamed"))
        digest = model_digest(str(tiny_model_path))
        assert same_model(digest, model_digest(str(copy))) is True
        other_weights(copy)
        assert same_model(digest, model_digest(str(copy))) is False

    def test_whether_a_folder_is_a_model_of_the_hub_cannot_be_told(self) -> None:
        assert same_model("org/name@1", "org/name@1") is True and same_model("org/name@1", "org/name@2") is False
        assert same_model("org/name@1", "0123456789abcdef") is None

    def test_of_nothing_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match="nothing is there"):
            model_digest(str(tmp_path / "missing"))
