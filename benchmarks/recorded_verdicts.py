"""How often our verdicts are those of the benchmarks' own scripts on recorded responses of models.

The responses are in the benchmarks' repositories (github.com/lupantech/MathVista, github.com/mathllm/MATH-V,
github.com/MMMU-Benchmark/MMMU). MathVista and MathVision have recorded their verdicts; MMMU's script is run:

    python benchmarks/recorded_verdicts.py --mathvista PATH/MathVista --mathvision PATH/MATH-V --mmmu PATH/MMMU
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import NamedTuple

from specs_lightning.groups import Prompt
from specs_lightning.rewards.accuracy import decide
from specs_lightning.scoring.benchmarks import judge_response
from specs_lightning.scoring.math_verify import MathVerifier

COMPUTED = ("code", "guess", "template")
"""Parts of the names of MathVista's results whose answers are no model's response."""


class Recorded(NamedTuple):
    """A response and the benchmark's verdict on it."""

    model: str
    prompt: Prompt
    response: str
    correct: bool


def mathvista(folder: Path, field: str) -> Iterator[Recorded]:
    """`field` is "response", or "extraction" for what the benchmark's language model took from it."""
    problems = json.loads((folder / "data" / "testmini.json").read_text("utf-8"))
    for file in sorted(folder.glob("results/*/output_*.json")):
        if any(part in file.stem for part in COMPUTED):
            continue
        for id, row in json.loads(file.read_text("utf-8")).items():
            if "true_false" not in row or field not in row:
                continue
            problem = problems[id]
            metadata = {"benchmark": "mathvista", "published_answer_type": problem["answer_type"]}
            precision = None if problem["precision"] is None else int(problem["precision"])
            prompt = _prompt(id, problem, tuple(problem["choices"] or ()), precision, metadata)
            text = str(row[field] or "")
            yield Recorded(
                file.stem, prompt, f"<answer>{text}</answer>" if field == "extraction" else text, row["true_false"]
            )


def mathvision(folder: Path, rule: str) -> Iterator[Recorded]:
    """`rule` is "mathvision", or "accuracy" for the reward."""
    lines = (folder / "data" / "test.jsonl").read_text("utf-8").splitlines()
    problems = {row["id"]: row for row in map(json.loads, lines)}
    for file in sorted(folder.glob("outputs/**/*.jsonl")):
        for row in map(json.loads, file.read_text("utf-8").splitlines()):
            problem = problems[row["id"]]
            metadata = {"benchmark": "mathvision"} if rule == "mathvision" else {}
            prompt = _prompt(row["id"], problem, tuple(problem["options"]), None, metadata)
            yield Recorded(file.stem, prompt, row["response"], row["correct"])


def mmmu(folder: Path) -> Iterator[Recorded]:
    """A response in which no option is found is wrong, where the script draws one."""
    found = spec_from_file_location("eval_utils", folder / "mmmu" / "utils" / "eval_utils.py")
    assert found is not None and found.loader is not None
    script = module_from_spec(found)
    found.loader.exec_module(script)
    script.random.choice = lambda _: None
    for file in sorted(folder.glob("mmmu/example_outputs/*/*/output.json")):
        for row in json.loads(file.read_text("utf-8")):
            golds = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
            if row["question_type"] == "multiple-choice":
                picked = script.parse_multi_choice_response(row["response"], row["all_choices"], row["index2ans"])
                correct, choices = script.eval_multi_choice(row["answer"], picked), tuple(row["index2ans"].values())
            else:
                correct, choices = script.eval_open(row["answer"], script.parse_open_response(row["response"])), ()
            metadata = {"benchmark": "mmmu", "alternatives": json.dumps(golds[1:])}
            problem = {"question": row["id"], "answer": golds[0]}
            yield Recorded(
                file.parents[1].name, _prompt(row["id"], problem, choices, None, metadata), row["response"], correct
            )


def _prompt(id: str, problem: dict, choices: tuple[str, ...], precision: int | None, metadata: dict) -> Prompt:
    messages = ({"role": "user", "content": problem["question"]},)
    answer, kind = problem["answer"], "choice" if choices and "options" in problem else "auto"
    return Prompt(
        id, messages, answer=answer, answer_type=kind, choices=choices, precision=precision, metadata=metadata
    )


def compare(title: str, recorded: list[Recorded], verifier: MathVerifier) -> None:
    """Print the agreement, and what the others are: recorded → ours."""
    start = time.process_time()
    judged = [judge_response(one.response, one.prompt) for one in recorded]
    seconds = time.process_time() - start
    verdicts = decide(judged, [one.prompt for one in recorded], verifier, None)
    pairs = [(one, verdict.correct) for one, verdict in zip(recorded, verdicts, strict=True)]
    said = [(one, ours) for one, ours in pairs if one.response.strip()]
    other = Counter((one.correct, ours) for one, ours in pairs if ours is not one.correct)
    print(f"{title}: {_alike(pairs)} alike; {_alike(said)} that say something")
    print(f"  by rules {len(pairs) / seconds:,.0f} a CPU second; recorded → ours: {dict(other)}")


def _alike(pairs: list[tuple[Recorded, bool | None]]) -> str:
    return f"{sum(ours is one.correct for one, ours in pairs) / len(pairs):.2%} of {len(pairs):,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mathvista", type=Path, help="a clone of MathVista's repository")
    parser.add_argument("--mathvision", type=Path, help="a clone of MATH-V's repository")
    parser.add_argument("--mmmu", type=Path, help="a clone of MMMU's repository; its script is run")
    args = parser.parse_args()
    verifier = MathVerifier(timeout_seconds=2.0, workers=2)
    if args.mathvista:
        compare("MathVista, responses", list(mathvista(args.mathvista, "response")), verifier)
        compare("MathVista, extracted answers", list(mathvista(args.mathvista, "extraction")), verifier)
    if args.mathvision:
        compare("MathVision, its rule", list(mathvision(args.mathvision, "mathvision")), verifier)
        compare("MathVision, the accuracy reward", list(mathvision(args.mathvision, "accuracy")), verifier)
    if args.mmmu:
        compare("MMMU, its rule", list(mmmu(args.mmmu)), verifier)
    verifier.close()


if __name__ == "__main__":
    main()
