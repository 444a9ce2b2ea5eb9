"""Answers to evaluation prompts, kept on disk batch by batch: a second start draws only those that are missing.

What counts is what was drawn. Verdicts are made anew at each start, so that a rule that was mended, or a judge that was
out of reach, needs no new answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from specs_lightning.evaluation.evaluator import Answered
from specs_lightning.groups import Prompt, image_bytes
from specs_lightning.records.answers import Answer
from specs_lightning.records.lines import append_lines, readable_lines
from specs_lightning.records.model_card import FILE as MODEL_CARD
from specs_lightning.records.record import DRAW_AGAIN, RecordFile, parse
from specs_lightning.settings.yaml_files import differences, fingerprint
from specs_lightning.system.progress import console
from specs_lightning.system.ranks import gather, rank

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
            console.print(told, markup=False, soft_wrap=True)


def content_digest(path: Path) -> str:
    """Of a file, or of all files in a folder with their names: every byte counts, but for those of a model's card."""
    inside = (file for file in path.rglob("*") if file.is_file() and file != path / MODEL_CARD)
    files = sorted(inside) if path.is_dir() else [path]
    with ThreadPoolExecutor(max_workers=8) as threads:
        digests = list(threads.map(_file_digest, files))
    names = [str(file.relative_to(path)) if path.is_dir() else "" for file in files]
    return fingerprint(dict(zip(names, digests, strict=True)))


def _file_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _key(set_name: str, prompt: Prompt) -> str:
    """Of what a model is asked: the gold answer may change without a new answer."""
    digest = hashlib.sha256(json.dumps([set_name, prompt.id, prompt.messages]).encode())
    for image in prompt.images:
        digest.update(hashlib.sha256(image_bytes(image)).digest())
    return digest.hexdigest()[:32]
