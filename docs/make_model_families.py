"""Writes the table of docs/model_families.md from the results of tests: `python docs/make_model_families.py`."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "policy")]

from test_families import NOT_ON_VLLM_CPU, PADDED, TEXT_ONLY  # noqa: E402

PUBLISHED = {
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen2_vl": "Qwen2-VL",
    "qwen3_vl": "Qwen3-VL",
    "llava": "LLaVA 1.5",
    "llava_next": "LLaVA-NeXT (1.6)",
    "idefics3": "Idefics3, SmolVLM",
    "smolvlm": "SmolVLM2",
    "internvl": "InternVL 2.5, 3 (`-hf`)",
    "gemma3": "Gemma 3",
    "qwen3": "Qwen3 (text alone)",
}
COLUMNS = {
    "log-probs, gradients": "test_shared_prefix_logprobs_and_gradients_are_those_of_each_sequence_alone[{}]",
    "images, vision tower": "test_images_matter_and_the_vision_tower_learns[{}]",
    "hf engine": "test_engine_samples_from_the_policy_and_from_the_changed_policy[{}-hf]",
    "vLLM": "test_engine_samples_from_the_policy_and_from_the_changed_policy[{}-vllm]",
    "LoRA": "test_lora_trains_adapters_alone_and_its_export_is_a_plain_model_with_the_same_logprobs[{}]",
    "export": "test_plain_transformers_loads_the_export_with_the_same_logits[{}]",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "0",
            "tests/policy/test_families.py",
            f"--junitxml={results}",
        ]
        subprocess.run(command, cwd=ROOT, check=False)
        passed = defaultdict(bool)
        for case in ElementTree.parse(results).iter("testcase"):
            passed[case.get("name")] = not len(case)  # children tell of failures, errors and skips
    lines = [f"| Model | `model_type` | rows | {' | '.join(COLUMNS)} |", "|---|---|---|" + "---|" * len(COLUMNS)]
    for family, name in PUBLISHED.items():
        rows = "padded" if family in PADDED else "shared prefix"
        cells = [_cell(family, column, passed[test.format(family)]) for column, test in COLUMNS.items()]
        lines.append(f"| {name} | `{family}` | {rows} | {' | '.join(cells)} |")
    page = ROOT / "docs" / "model_families.md"
    table = "<!-- table -->\n" + "\n".join(lines) + "\n<!-- end -->"
    page.write_text(re.sub(r"<!-- table -->.*<!-- end -->", lambda _: table, page.read_text(), flags=re.S))


def _cell(family: str, column: str, passed: bool) -> str:
    if not passed:
        return "fails"
    if column == "vLLM" and family in NOT_ON_VLLM_CPU:
        return "refused on a CPU"
    return "none" if column.startswith("images") and family in TEXT_ONLY else "yes"


if __name__ == "__main__":
    main()
