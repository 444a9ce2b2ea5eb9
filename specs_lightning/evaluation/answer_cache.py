"""Answers to evaluation prompts, kept on disk batch by batch: a second start draws only those that are missing.

What counts is what was drawn. Verdicts are made anew at each start, so that a rule that was mended, or a judge that was
out of reach, needs no new answers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from specs_lightning.evaluation.evaluator import Answered
from specs_lightning.groups import Prompt
from specs_lightning.records.answers import Answer
from specs_lightning.settings.files import differences, fingerprint
from specs_lightning.system.files import write_whole
from specs_lightning.system.progress import console
from specs_lightning.system.ranks import gather, rank


class AnswerCache:
    """The answers of one model under one set of settings, in a folder that is named by these.

    Answers that were drawn otherwise lie beside it, and are found again when their settings come back.

    Args:
        folder: of the answers of all models and settings.
        drawn_by: all that the answers depend on, besides the prompts.
    """

    def __init__(self, folder: Path, drawn_by: Mapping[str, Any]) -> None:
        self.folder = folder / fingerprint(drawn_by)
        self.drawn_by = dict(drawn_by)
        self._known: dict[str, list[Answer]] = {}

    def load(self) -> None:
        """Read what there is. All processes must call it: they go on from what the first one sees."""
        self._known = gather(dict(self._read()))[0]
        if rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "drawn_by.json").exists():
                self._tell_of_others()
                write_whole(self.folder / "drawn_by.json", json.dumps(self.drawn_by, indent=1))
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
        with (self.folder / f"{rank()}.jsonl").open("ab+") as file:
            if file.tell() and not _ends_its_line(file):
                file.write(b"\n")  # behind what a kill cut off
            file.write(json.dumps(rows).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> Iterator[tuple[str, list[Answer]]]:
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_bytes().split(b"\n"):
                try:
                    rows = json.loads(line)
                except ValueError:  # cut off by a kill, or the empty end
                    continue
                yield from ((key, [Answer.from_row(row) for row in group]) for key, group in rows.items())

    def _tell_of_others(self) -> None:
        others = sorted(self.folder.parent.glob("*/drawn_by.json"), key=lambda file: file.stat().st_mtime)
        if others:
            changed = "\n".join(differences(json.loads(others[-1].read_text()), self.drawn_by))
            console.print(
                f"{others[-1].parent} has answers that were drawn otherwise; these are drawn anew:\n{changed}",
                markup=False,
                soft_wrap=True,
            )


def content_digest(path: Path) -> str:
    """Of a file, or of all files in a folder with their names: every byte counts."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
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
    for image in _contents(prompt):
        digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()[:32]


def _contents(prompt: Prompt) -> Iterable[bytes]:
    return (image if isinstance(image, bytes) else image.read_bytes() for image in prompt.images)


def _ends_its_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
