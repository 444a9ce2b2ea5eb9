"""What came of a run in plain English: a sentence for each trained model, and one on which generalises best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from specs_lightning.records.results import KindGain, ModelScores, Results, read_results
from specs_lightning.report.scores import mean_share, percent, results_table
from specs_lightning.system.terminal import console, plain

_SUCCEEDS = {"solved": "solves", "correct": "is right on", "format_kept": "keeps the format on"}
"""What a model does with the share of prompts that a measure says."""


def show_results(run_dir: Path) -> None:
    """Print the table of a run, and the sentences below it. Errors: `read_results`."""
    console.print(results_table(run_dir))
    results = read_results(run_dir)
    for sentence in sentences(results) if results else ():
        console.print(plain(sentence))


def sentences(results: Results) -> list[str]:
    """What each model gained over the first, and which of several generalises best."""
    return gains_sentences(results) + ranking_sentences(results.models[1:]) if results.ood_sets else []


def gains_sentences(results: Results) -> list[str]:
    """What each model gained over the first; none without sets out of distribution."""
    return [gains_sentence(model, results.gain) for model in results.models[1:]] if results.ood_sets else []


def headline(results: Results) -> str:
    """How often the model of the highest Γ (the last, where none is known) has success, and the first beside it."""
    if len(results.models) < 2:
        return ""
    base, *trained = results.models
    best = max(reversed(trained), key=lambda model: model.generalization_factor or 0.0)
    told = []
    for where, sets in (("in distribution", results.id_sets), ("out of it", results.ood_sets)):
        before, after = (mean_share(model, sets, results.measure) for model in (base, best))
        if before is None or after is None:
            return ""
        told.append(f"{percent(after.value)} % {where} ({base.name} {percent(before.value)})")
    return f"{best.name} {_SUCCEEDS[results.measure]} {' and '.join(told)}."


def gains_sentence(model: ModelScores, gain: str = "difference") -> str:
    """Both gains of a model, by kind of sets if there are kinds (most gained first), and its Γ."""
    inside, outside, factor = model.gain_id, model.gain_ood, model.generalization_factor
    if inside is None or outside is None or factor is None:
        return f"What {model.name} gains is not known on all sets, and so neither is its Generalization Factor."
    verb, again = _verb(inside, gain), _verb(outside, gain)
    unit = "% of the base's score" if gain == "relative" else "points"
    doubt = _doubt(model, "gain_id")
    text = f"{model.name} {verb} {percent(abs(inside))} {unit} in distribution{doubt}{',' if doubt else ''} and "
    text += f"{again} " if again != verb else ""
    text += f"{percent(abs(outside))} out of it{_doubt(model, 'gain_ood')}{_by_kind(model)}"
    if factor == 0:
        return f"{text}, so its Generalization Factor is 0."
    interval = model.interval("generalization_factor")
    return f"{text}: Γ {percent(factor)}" + (" ({} to {}).".format(*map(percent, interval)) if interval else ".")


def ranking_sentences(models: Sequence[ModelScores]) -> list[str]:
    """Which model has the highest Γ, and whether its interval is apart from the next one's; none of fewer than two."""
    known = [(model.generalization_factor, model) for model in models if model.generalization_factor is not None]
    if len(known) < 2:
        return []
    (highest, best), (_, second), *_ = sorted(known, key=lambda one: one[0], reverse=True)
    if highest == 0:
        return ["No model generalises: none has a Generalization Factor above 0."]
    ends, others = best.interval("generalization_factor"), second.interval("generalization_factor")
    if ends is None or others is None:
        return [f"{best.name} has the highest Γ, before {second.name}; without intervals, this may be chance."]
    if ends[0] > others[1]:
        return [f"{best.name} generalises best by Γ, told apart from {second.name}, the next: its interval lies above."]
    return [f"{best.name} has the highest Γ, but is not told apart from {second.name}, the next: intervals overlap."]


def _verb(value: float, gain: str) -> str:
    return "scores" if gain == "raw" else "gains" if value >= 0 else "loses"


def _doubt(one: ModelScores | KindGain, name: str) -> str:
    low, high = one.interval(name) or (1.0, 1.0)
    return ", not told apart from none" if low <= 0 <= high else ""


def _by_kind(model: ModelScores) -> str:
    known = [(one.gain_ood, kind, _doubt(one, "gain_ood")) for kind, one in model.kinds.items()]
    parts = [f"{kind} {percent(value)}{doubt}" for value, kind, doubt in sorted(known, key=_most_gained)]
    between = "; " if any(doubt for *_, doubt in known) else ", "
    return f" ({between.join(parts)})" if parts else ""


def _most_gained(one: tuple[float | None, str, str]) -> float:
    return float("inf") if one[0] is None else -one[0]
