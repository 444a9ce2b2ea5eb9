r"""Gold answers before they are trained on: out of what data sets wrap them in, and each scored once against itself.

A gold answer that its own scorer does not find right can never be answered rightly: every completion would be wrong, or
unscored.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sqlite3
import threading
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

from specs_lightning.groups import PLACE, Prompt
from specs_lightning.scoring.answer_formats import answer_format, tag_formats
from specs_lightning.scoring.benchmarks import judge_response
from specs_lightning.scoring.benchmarks.rules import Ruling
from specs_lightning.scoring.choices import LETTERS, picked_option
from specs_lightning.scoring.math_verify import Comparison, MathVerifier, Verdict
from specs_lightning.scoring.text import closing_braces
from specs_lightning.system.files import cache_folder

log = logging.getLogger(__name__)

MOST_WORKERS = 8
"""Processes of math-verify, each of which imports a computer algebra system."""
KEPT_AT_ONCE = 500
_SCORERS = ("math-verify", "latex2sympy2_extended", "sympy")
_BETWEEN_BOXES = re.compile(r"(?:[\s,;.$]|\\[,; ]|\\q?quad\b|\band\b|\bor\b|\\text\s*\{\s*(?:and|or)\s*\})*")


def bare_gold(text: str) -> str:
    r"""A gold answer out of answer tags, from behind GSM8K's `####`, and out of its `\boxed{}`.

    Several boxes with nothing but commas between them are one answer of several parts; `ValueError` of others.
    """
    for tags in (form.tags for form in tag_formats()):
        _, opened, inside = text.rpartition(tags[2])
        text = inside.partition(tags[3])[0] if opened else text
    before, marked, behind = text.rpartition("####")
    if marked and before[-1:] in ("", "\n", " ") and len(behind.strip().splitlines()) == 1:
        text = behind
    return _unboxed(text).strip()


def _unboxed(text: str) -> str:
    closing = closing_braces(text)
    insides: list[str] = []
    between: list[str] = []
    end = 0
    for box in re.finditer(r"\\boxed\s*\{", text):
        closes = closing.get(box.end() - 1)
        if closes is None or box.start() < end:
            continue
        between.append(text[end : box.start()])
        insides.append(text[box.end() : closes].strip())
        end = closes + 1
    if len(set(insides)) <= 1:
        return insides[0] if insides else text
    if not all(_BETWEEN_BOXES.fullmatch(gap) for gap in [*between, text[end:]]):
        raise ValueError(f"gold answer with several boxes: {text[:80]!r}")
    return ", ".join(insides)


class GoldCheck:
    """Scores gold answers against themselves, each once: verdicts are kept on disk, by what they depend on.

    Usable from several threads, which then wait for several workers; to be used in a `with` block.

    Args:
        workers: processes of math-verify, started when they are needed; one a core, and at most `MOST_WORKERS`, if not
            given.
        folder: where verdicts are kept; `golds` in the cache folder if not given. Without one that can be written,
            they are found anew each time.
    """

    def __init__(self, workers: int | None = None, folder: Path | None = None) -> None:
        self.verifier = MathVerifier(workers=min(workers or os.cpu_count() or 1, MOST_WORKERS))
        self._lock = threading.Lock()
        self._known: dict[bytes, str | None] = {}
        self._new: list[tuple[bytes, str | None]] = []
        self._kept = _open_kept((folder or cache_folder() / "golds") / f"{scorer_digest()}.sqlite")

    def __enter__(self) -> GoldCheck:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.verifier.close()
        with self._lock:
            self._keep()
            if self._kept is not None:
                self._kept.close()

    def cause(self, prompt: Prompt) -> str | None:
        """Why a prompt's gold answer does not come out right; `None` where it does, or there is none."""
        if prompt.answer is None:
            return None
        key = _key(prompt)
        with self._lock:
            if key in self._known:
                return self._known[key]
            if (kept := self._find(key)) is not None:
                self._known[key] = kept[0]
                return kept[0]
        cause = self._score(prompt)
        with self._lock:
            self._known[key] = cause
            self._new.append((key, cause))
            if len(self._new) >= KEPT_AT_ONCE:
                self._keep()
        return cause

    def _score(self, prompt: Prompt) -> str | None:
        assert prompt.answer is not None
        benchmark = prompt.metadata.get("benchmark")
        causes: list[str] = []
        for answer in _answers(prompt):
            response = answer_format(prompt.answer_format).write("", answer)
            try:
                judged = judge_response(response, prompt)
            except Exception as error:  # a published rule that trips over its own gold answer
                causes.append(f"the rule of {benchmark} fails: {type(error).__name__}: {error}")
                continue
            if benchmark is not None and isinstance(judged, Verdict) and judged.correct is None:
                return None  # a rule that is not read here: evaluations count such questions by their causes
            verdict = self._decide(judged)
            if verdict.correct:
                return None
            causes.append(verdict.cause or f"the gold answer {prompt.answer[:80]!r} is not right by its own scorer")
        return causes[0]

    def _decide(self, judged: Ruling) -> Verdict:
        if isinstance(judged, Verdict):
            return judged
        if not isinstance(judged, Comparison):
            return Verdict(judged == 1.0)  # a share of the answer; other words than its own are none
        (verdict,) = self.verifier.compare([judged])
        # Asked twice before it is kept, since a busy machine may have been at fault. But kept: a run that goes on must
        # find the prompts that it began with.
        return verdict if verdict.correct is not None else self.verifier.compare([judged])[0]

    def _find(self, key: bytes) -> tuple[str | None] | None:
        if self._kept is None:
            return None
        try:
            found: tuple[str | None] | None = self._kept.execute(
                "SELECT cause FROM verdicts WHERE gold = ?", (key,)
            ).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        return found

    def _keep(self) -> None:
        if self._kept is None or not self._new:
            return
        try:
            with self._kept:
                self._kept.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", self._new)
        except sqlite3.Error as error:
            self._give_up(error)
        self._new.clear()

    def _give_up(self, error: sqlite3.Error) -> None:
        log.warning("verdicts on gold answers are not kept: %s", error)
        self._kept = None


def _answers(prompt: Prompt) -> list[str]:
    """The gold answer and, where it is an option's text, its label: either is how a model may say it."""
    assert prompt.answer is not None
    picked = picked_option(prompt.answer, prompt.choices) if prompt.choices else None
    return [prompt.answer] if picked is None else list(dict.fromkeys([prompt.answer, LETTERS[picked]]))


def _key(prompt: Prompt) -> bytes:
    """Of all that a verdict on the gold answer depends on."""
    parts: list[Any] = [prompt.answer, prompt.answer_type, prompt.answer_format, prompt.choices, prompt.precision]
    if "benchmark" in prompt.metadata:
        parts.append({k: v for k, v in prompt.metadata.items() if k not in PLACE})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:16]


@cache
def scorer_digest() -> str:
    """Tells one scorer from another: by the sources of this room, and the versions of what it uses."""
    digest = hashlib.sha256(" ".join(version(package) for package in _SCORERS).encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _open_kept(file: Path) -> sqlite3.Connection | None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = sqlite3.connect(file, timeout=60, check_same_thread=False)
        kept.execute("CREATE TABLE IF NOT EXISTS verdicts (gold BLOB PRIMARY KEY, cause TEXT)")
    except (sqlite3.Error, OSError) as error:
        log.warning("verdicts on gold answers are not kept in %s: %s", file, error)
        return None
    return kept
