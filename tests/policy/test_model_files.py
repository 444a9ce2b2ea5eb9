"""A model is found where it lies, and where there is none it says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.other_content import other_weights

from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.model_files import ModelNotFound, model_digest, same_model
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
