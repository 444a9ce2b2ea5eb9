"""Prompts of published benchmarks."""

from specs_lightning.groups import Prompt


def prompt(benchmark: str, answer: str, choices: tuple[str, ...] = (), **more: object) -> Prompt:
    metadata = {"benchmark": benchmark, "task": "t", **more}
    precision = metadata.pop("precision", None)
    return Prompt("p", (), answer=answer, choices=choices, precision=precision, metadata=metadata)  # type: ignore[arg-type]
