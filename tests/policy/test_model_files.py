"""A model is found where it lies, and where there is none it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs_lightning.policy.loading import PolicySettings
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
