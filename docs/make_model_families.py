"""Writes the table of docs/model_families.md from the results of tests: `python docs/make_model_families.py`.

It runs them, which takes long, since vLLM is started for every family. They may have been run before, in parts:
`python docs/make_model_families.py RESULTS.xml …` takes what pytest's `--junitxml` wrote. A cell whose test was not run
says so.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "policy")]

from helpers.tiny_families import NOT_ON_VLLM  # noqa: E402
from test_families import ONE_WAY_ON_CPU, PADDED, TEXT_ONLY  # noqa: E402

PUBLISHED = {
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen2_vl": "Qwen2-VL",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL-MoE (30B-A3B)",
    "qwen3_5": "Qwen3.5, Qwen3.6",
    "qwen3_5_moe": "Qwen3.5, Qwen3.6 MoE (35B-A3B)",
    "glm4v": "GLM-4.1V",
    "glm46v": "GLM-4.6V",
    "glm4v_moe": "GLM-4.5V",
    "llava": "LLaVA 1.5",
    "llava_next": "LLaVA-NeXT (1.6)",
    "llava_onevision": "LLaVA-OneVision",
    "idefics3": "Idefics3, SmolVLM",
    "smolvlm": "SmolVLM2",
    "internvl": "InternVL 2.5, 3 (`-hf`)",
    "internvl3_5": "InternVL 3.5 (`-HF`)",
    "internvl3_5_moe": "InternVL 3.5 MoE (30B-A3B, `-HF`)",
    "mistral3": "Mistral Small 3.1, 3.2",
    "ministral3": "Ministral 3",
    "minicpmv4_6": "MiniCPM-V 4.6",
    "gemma3": "Gemma 3",
    "gemma4": "Gemma 4 (E2B, E4B)",
    "gemma4_moe": "Gemma 4 (26B-A4B)",
    "qwen3": "Qwen3 (text alone)",
}
MODEL_TYPES = {
    "internvl3_5": "internvl",
    "internvl3_5_moe": "internvl",
    "ministral3": "mistral3",
    "gemma4_moe": "gemma4",
}
"""Of those that are not called by it."""
COLUMNS = {
    "log-probs, gradients": "test_shared_prefix_logprobs_and_gradients_are_those_of_each_sequence_alone[{}]",
    "images, vision tower": "test_images_matter_and_the_vision_tower_learns[{}]",
    "hf engine": "test_the_embedded_engine_samples_from_the_policy_and_from_the_changed_policy[{}]",
    "vLLM": "test_vllm_samples_from_the_policy_and_from_the_changed_policy[{}]",
    "LoRA": "test_lora_trains_adapters_alone_and_its_export_is_a_plain_model_with_the_same_logprobs[{}]",
    "export": "test_plain_transformers_loads_the_export_with_the_same_logits[{}]",
}


def main(*results: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        passed = _passed(results or (_run_tests(Path(folder, "results.xml")),))
    lines = [f"| Model | `model_type` | rows | {' | '.join(COLUMNS)} |", "|---|---|---|" + "---|" * len(COLUMNS)]
    for family, name in PUBLISHED.items():
        rows = "padded" if family in PADDED else "shared prefix"
        cells = [_cell(family, column, passed.get(test.format(family))) for column, test in COLUMNS.items()]
        lines.append(f"| {name} | `{MODEL_TYPES.get(family, family)}` | {rows} | {' | '.join(cells)} |")
    page = ROOT / "docs" / "model_families.md"
    table = "<!-- table -->\n" + "\n".join(lines) + "\n<!-- end -->"
    page.write_text(re.sub(r"<!-- table -->.*<!-- end -->", lambda _: table, page.read_text(), flags=re.S))


def _run_tests(results: Path) -> str:
    options = ["-q", "-n", "0", "-m", "long or not long", f"--junitxml={results}"]
    subprocess.run([sys.executable, "-m", "pytest", *options, "tests/policy/test_families.py"], cwd=ROOT, check=False)
    return str(results)


def _passed(results: Iterable[str]) -> dict[str, bool]:
    """Whether each test passed, by its name; without those that were not run."""
    cases = [case for file in results for case in ElementTree.parse(file).iter("testcase")]
    run = [case for case in cases if case.find("skipped") is None]
    return {str(case.get("name")): not len(case) for case in run}  # children tell of failures and errors


def _cell(family: str, column: str, passed: bool | None) -> str:
    if column == "vLLM" and family in NOT_ON_VLLM:
        return "no"
    if passed is None:
        return "not run"
    if not passed:
        return "fails"
    if column == "vLLM" and family in ONE_WAY_ON_CPU:
        return "refused on a CPU"
    return "none" if column.startswith("images") and family in TEXT_ONLY else "yes"


if __name__ == "__main__":
    main(*sys.argv[1:])
