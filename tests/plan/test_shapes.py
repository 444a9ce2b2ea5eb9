from __future__ import annotations

from pathlib import Path

import pytest

from specs_lightning.errors import SpecsError
from specs_lightning.plan.shapes import SHAPES, model_shape
from specs_lightning.policy.loading import PolicySettings, empty_model

PUBLISHED = {
    "Qwen2.5-VL-3B": 3_754_622_976,
    "Qwen2.5-VL-7B": 8_292_166_656,
    "Qwen2.5-VL-32B": 33_452_718_336,
    "Qwen2.5-VL-72B": 73_410_777_344,
    "Qwen3-VL-8B": 8_767_123_696,
    "SmolVLM-256M": 256_484_928,
    "SmolVLM2-2.2B": 2_246_784_880,
}
"""Weights in the files on the hub."""


@pytest.mark.parametrize("name", SHAPES)
def test_a_known_shape_has_the_published_number_of_weights(name: str) -> None:
    model = empty_model(model_shape(f"owner/{name}-Instruct"), PolicySettings(name))
    assert sum(weight.numel() for weight in model.parameters()) == PUBLISHED[name]


def test_a_folder_needs_its_configuration_alone(tiny_model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model_path / "config.json").read_bytes())
    assert model_shape(str(tmp_path)).model_type == "qwen2_5_vl"


def test_what_is_no_model_is_refused_with_the_known_shapes() -> None:
    with pytest.raises(SpecsError, match=r"Qwen9 is no model folder; known shapes are Qwen2\.5-VL-3B, "):
        model_shape("Qwen9")
