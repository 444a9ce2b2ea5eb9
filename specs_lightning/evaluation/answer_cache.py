"""Answers to evaluation prompts, kept on disk batch by batch: a second start draws only those that are missing.

What counts is what was drawn. Verdicts are made anew at each start, so that a rule that was mended, or a judge that was
out of reach, needs no new answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from specs_lightning.evaluation.evaluator import Answered
from specs_lightning.groups import Prompt, prompt_digest
from specs_lightning.records.answers import Answer
from specs_lightning.records.lines import append_lines, readable_lines
from specs_lightning.records.record import DRAW_AGAIN, RecordFile, parse
from specs_lightning.settings.yaml_files import differences
from specs_lightning.system.digests import fingerprint
from specs_lightning.system.ranks import gather, rank
from specs_lightning.system.terminal import say

CACHE_KEY = RecordFile("drawn_by.json", dict[str, Any], DRAW_AGAIN)


class AnswerCache:
    """The answers of one model under one set of settings, in a folder that is named by these.

    Answers that were drawn otherwise lie beside it, and are found again when their settings come back. The `cache_key`
    is all that the answers depend on, besides the prompts.
    """

    def __init__(self, folder: Path, cache_key: Mapping[str, Any]) -> None:
        self.folder = folder / fingerprint(cache_key)
        self.cache_key = dict(cache_key)
        self._known: dict[str, list[Answer]] = {}

    def load(self) -> None:
        """Read what there is. All processes must call it: they go on from what the first one sees."""
        self._known = gather(dict(self._read()))[0]
        if rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / CACHE_KEY.name).exists():
                self._tell_of_others()
                CACHE_KEY.write(self.folder, self.cache_key)
        gather(None)  # until the folder is there

    def find(self, set_name: str, prompt: Prompt) -> list[Answer] | None:
        """The answers to a prompt; None where there are none yet."""
        return self._known.get(_key(set_name, prompt))

    def add(self, set_name: str, answered: Sequence[Answered]) -> None:
        """Keep the answers to a batch of prompts, in one line: a kill loses the whole batch, and it is drawn as a whole
        again (in other company, rounding is another)."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for prompt, _, answer in answered:
            rows.setdefault(_key(set_name, prompt), []).append(answer.as_row())
        append_lines(self.folder / f"{rank()}.jsonl", [rows])

    def _read(self) -> Iterator[tuple[str, list[Answer]]]:
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in readable_lines(path):
                yield from parse(dict[str, list[Answer]], line.content, path, DRAW_AGAIN, line.number).items()

    def _tell_of_others(self) -> None:
        others = sorted(self.folder.parent.glob(f"*/{CACHE_KEY.name}"), key=lambda file: file.stat().st_mtime)
        if others:
            changed = "\n".join(differences(CACHE_KEY.read(others[-1].parent) or {}, self.cache_key))
            told = f"{others[-1].parent} has answers that were drawn otherwise; these are drawn anew:\n{changed}"
            say(told)


def _key(set_name: str, prompt: Prompt) -> str:
    """Of what a model is asked: the gold answer may change without a new answer."""
    return prompt_digest(prompt, set_name)
