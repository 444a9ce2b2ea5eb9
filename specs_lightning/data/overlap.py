"""Which rows show the same image or ask the same question, within a data set and across several.

Images are the same if their pixels are, whatever file they come from; texts if they differ in case, spaces and the
Unicode form of their characters alone. A row is remembered as digests of 16 bytes.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import PIL.Image

from specs_lightning.groups import Prompt
from specs_lightning.scoring.answer_formats import answer_format


@dataclass(frozen=True, slots=True)
class RowContent:
    """Digests of what a row shows and asks."""

    images: tuple[bytes, ...]
    """In the order of their pixels' digests."""
    text: bytes

    @classmethod
    def of(cls, prompt: Prompt, pictures: Iterable[PIL.Image.Image], instruction: str | None = None) -> RowContent:
        return cls(tuple(sorted(map(_pixels, pictures))), _digest(question_text(prompt, instruction).encode()))

    @property
    def parts(self) -> tuple[bytes, ...]:
        """What other rows must not have on the other side of a split: the images or, of a row without any, its text."""
        return self.images or (self.text,)


@dataclass(frozen=True, slots=True)
class Overlap:
    """What two data sets share. Rows are counted on each side.

    Args:
        images: distinct ones that are in both.
        rows: rows of the first, and of the second, that show one of them.
        same: rows of the first, and of the second, that are in the other as a whole: the images and the text.
    """

    first: str
    second: str
    images: int
    rows: tuple[int, int]
    same: tuple[int, int]

    def __str__(self) -> str:
        said = []
        if self.images:
            a, b = self.rows
            said.append(f"{self.images} images in both ({a} rows of {self.first}, {b} of {self.second})")
        if any(self.same):
            a, b = self.same
            said.append(f"the same question in both ({a} rows of {self.first}, {b} of {self.second})")
        return f"{self.first} and {self.second}: {'; '.join(said)}"

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


def overlaps(sets: Mapping[str, Sequence[RowContent]]) -> list[Overlap]:
    """Of each two data sets that share anything."""
    images = {name: {image for row in rows for image in row.images} for name, rows in sets.items()}
    whole = {name: set(rows) for name, rows in sets.items()}
    found = []
    for first, second in combinations(sets, 2):
        shared, same = images[first] & images[second], whole[first] & whole[second]
        if shared or same:
            both = (sets[first], sets[second])
            rows = [sum(not shared.isdisjoint(row.images) for row in side) for side in both]
            found.append(
                Overlap(first, second, len(shared), (rows[0], rows[1]), (_count(both[0], same), _count(both[1], same)))
            )
    return found


def repeated(rows: Sequence[RowContent]) -> int:
    """Rows that another before them in the same data set equals, image and text."""
    return sum(times - 1 for times in Counter(rows).values())


def places(rows: Sequence[RowContent]) -> list[float]:
    """Where each row stands between 0 and 1, always the same: rows that share an image, or have none and share the
    text, stand in one place, and so do those that are linked by further rows."""
    parent: dict[bytes, bytes] = {}

    def root(part: bytes) -> bytes:
        while (above := parent.setdefault(part, part)) != part:
            parent[part] = part = parent[above]
        return part

    for row in rows:
        first, *others = map(root, row.parts)
        for other in others:
            # the least digest is the root, so that the order of the rows does not matter
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return [int.from_bytes(_digest(root(row.parts[0]))[:8]) / 2**64 for row in rows]


def question_text(prompt: Prompt, instruction: str | None = None) -> str:
    """What the user asks, without how to answer it, and without what does not make it another question.

    The `instruction` is that of its source, if the source has one of its own.
    """
    contents = [message["content"] for message in prompt.messages if message["role"] == "user"]
    parts = [content if isinstance(content, str) else _text(content) for content in contents]
    text = "\n".join(parts).strip().removesuffix(instruction or answer_format(prompt.answer_format).instruction)
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text).casefold())


def _text(content: Sequence[Mapping[str, Any]]) -> str:
    return "".join(part["text"] for part in content if part["type"] == "text")


def _pixels(picture: PIL.Image.Image) -> bytes:
    return _digest(repr(picture.size).encode(), picture.tobytes())


def _digest(*contents: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for content in contents:
        digest.update(content)
    return digest.digest()


def _count(rows: Sequence[RowContent], same: set[RowContent]) -> int:
    return sum(row in same for row in rows)
