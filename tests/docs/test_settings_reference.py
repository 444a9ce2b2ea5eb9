"""docs/settings.md says what the code does: it is made from it again and compared."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "make_settings.py"


@pytest.fixture(scope="module")
def make_settings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_settings", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_says(make_settings: ModuleType) -> None:
    written = make_settings.FILE.read_text(encoding="utf-8")
    assert written == make_settings.render(), "run `python docs/make_settings.py` and commit docs/settings.md"


def test_every_class_is_in_it_once(make_settings: ModuleType) -> None:
    listed = [item for items in make_settings.sections().values() for item in items]
    names = {item.__name__ for item in listed}
    assert len(listed) == len(names)
    assert {"GRPOModule", "ColdStartModule", "DPO", "SFT", "GRPO", "RolloutDataModule", "HFEngine"} <= names
    assert {"PolicySettings", "PromptSource", "SamplingSettings", "Stage", "PairSettings"} <= names
