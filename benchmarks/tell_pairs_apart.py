"""Do the two sides of preference pairs differ in more than their format? A bag of words tries to tell.

    python benchmarks/tell_pairs_apart.py runs/toy/distill/pairs.parquet

A logistic regression on the words of each response, tags left out, learns chosen from rejected on nine tenths of the
pairs and is asked about the others. Around 50 % says that neither the words nor the length tell.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specs_lightning.data.pairs import load_pairs
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.statistics.intervals import Z_95

FOLDS = 10
PENALTY = 1.0
"""On the squared weights, of which each stands for a word's number in a response in standard deviations."""


@dataclass(frozen=True)
class Told:
    """How well chosen and rejected were told apart, and by how many words the chosen side is longer."""

    accuracy: float
    interval: tuple[float, float]
    longer_by: float
    longer_interval: tuple[float, float]
    words: float
    """Of a rejected response, in the mean."""


def words(text: str) -> list[str]:
    """Those of a response without what its format, or the loss of it, puts there."""
    return re.findall(r"\w+|[^\w\s]", re.sub(r"</?\w+>|Answer:", " ", text))


def tell_apart(pairs: Sequence[tuple[str, str]]) -> Told:
    """Learn chosen from rejected texts and try on pairs that were not learned from, each once."""
    bags = [[Counter(words(text)) for text in pair] for pair in pairs]
    vocabulary = {word: i for i, word in enumerate(sorted({w for pair in bags for bag in pair for w in bag}))}
    counts = torch.zeros(len(pairs), 2, len(vocabulary))
    for i, pair in enumerate(bags):
        for side, bag in enumerate(pair):
            for word, number in bag.items():
                counts[i, side, vocabulary[word]] = number
    fold = torch.arange(len(pairs)) % FOLDS
    right = torch.zeros(len(pairs))
    for held_out in range(FOLDS):
        right[fold == held_out] = _right(counts[fold != held_out], counts[fold == held_out])
    longer = counts.sum(-1) @ torch.tensor([1.0, -1.0])
    rejected = counts[:, 1].sum(-1).mean().item()
    return Told(right.mean().item(), _interval(right), longer.mean().item(), _interval(longer), rejected)


def _interval(values: torch.Tensor) -> tuple[float, float]:
    """Of the mean, 95 %."""
    half = Z_95 * (values.std() / len(values) ** 0.5).item()
    return values.mean().item() - half, values.mean().item() + half


def _right(known: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Of each pair asked about, which share of its two sides is told rightly."""
    flat = known.flatten(0, 1)
    mean, deviation = flat.mean(0), flat.std(0).clamp(min=1e-6)
    features = (flat - mean) / deviation
    is_chosen = torch.tensor([1.0, 0.0]).repeat(len(known))
    weights = torch.zeros(features.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = features @ weights[1:] + weights[0]
        fit = torch.nn.functional.binary_cross_entropy_with_logits(logits, is_chosen, reduction="sum")
        total = fit + PENALTY * weights[1:].square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    seems_chosen = (((asked - mean) / deviation) @ weights[1:] + weights[0]).detach() > 0
    return (seems_chosen == torch.tensor([True, False])).float().mean(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="pairs.parquet of `specs distill`")
    pairs = load_pairs(parser.parse_args().file, SetAside())
    told = tell_apart([(pair.chosen, pair.rejected) for pair in pairs if pair.rejected is not None])
    low, high = told.interval
    print(f"{len(pairs)} pairs: told apart in {told.accuracy:.1%} ({low:.1%} to {high:.1%})")
    low, high = told.longer_interval
    print(f"chosen longer by {told.longer_by:.2f} words ({low:.2f} to {high:.2f}), rejected {told.words:.1f} words")


if __name__ == "__main__":
    main()
