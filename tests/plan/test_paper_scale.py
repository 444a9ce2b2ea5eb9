"""Configurations at the paper's scale run on tiny models of their families."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.command_line import EXPORT_ALONE, ROOT, specs
from helpers.small_runs import write_pair_file, write_prompt_file
from helpers.tiny_families import tiny_family
from test_configs import commands

DRY_RUNS = {
    "zero": "qwen2_5_vl_7b/zero",
    "cold start": "qwen2_5_vl_7b/cold_start",
    "adapters": "qwen2_5_vl_7b/lora_24gb",
    "Qwen3-VL": "qwen3_vl_8b/zero",
    "SmolVLM": "smolvlm2_2b/zero",
}
FAMILIES = {"qwen3_vl_8b": "qwen3_vl", "smolvlm2_2b": "smolvlm"}


@pytest.mark.slow
@pytest.mark.parametrize("case", DRY_RUNS)
def test_it_runs_on_a_tiny_model_of_its_family(case: str, tiny_model_path: Path, tmp_path: Path) -> None:
    file = ROOT / "configs" / f"{DRY_RUNS[case]}.yaml"
    family = FAMILIES.get(file.parent.name)
    model = tiny_family(family, tmp_path / "model") if family else tiny_model_path
    _, arguments = commands(file)[0]
    small = ["--data.sampling.max_tokens=8", "--data.prompts_per_round=8"]
    data = [f"--data.train={{path: {write_prompt_file(tmp_path)}, schema: generic}}", *small]
    if file.stem == "cold_start":
        data = [f"--data.train={write_pair_file(tmp_path)}"]
    specs(
        "fit",
        *arguments.split(),
        *data,
        f"--model.policy.model={model}",
        "--data.engine=specs_lightning.rollout.HFEngine",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        "--trainer.fast_dev_run=true",
        EXPORT_ALONE,
    )
    assert (tmp_path / "run" / "model" / "config.json").is_file()
