"""A step's completions dealt to processes and micro-batches by their tokens.

A group may be split, and its prompt is then run again where the rest of it is: an even share is worth more than a
prompt. All processes deal alike, each for all of them, so that none need ask another what it got.

To find the best division is hard (bin packing with a cost of opening a group). Here the largest group goes first, whole
where it has room; the room that all get is the least with which this ends well, found by halving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from specs_lightning.groups import GroupBatch

STEPS = 8
"""How many sizes of micro-batches are tried between even ones and full ones."""

IDLE_IS_SAID = 0.1
"""The share of waiting from which on it is told."""


class Unit(NamedTuple):
    """What is not split: a completion, or all of a group."""

    tokens: int
    indices: tuple[int, ...]
    """Of its completions."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Units of a group, the longest first."""

    prompt: int
    """Tokens that come with them once, however many there are."""
    units: tuple[Unit, ...]

    @property
    def tokens(self) -> int:
        return self.prompt + sum(unit.tokens for unit in self.units)


Share = list[Piece]
"""What one process, or one micro-batch, gets."""


def deal(
    batch: GroupBatch, processes: int, max_tokens: int, shared_prefix: bool = True, whole_groups: bool = False
) -> list[list[list[int]]]:
    """The micro-batches of each process, as indices in rising order; `max_tokens` and what follows as in
    `GroupBatch.micro_batches`.

    All have equally many, in falling order, since they may wait for each other in each. A process is without any
    completion only where there are fewer units than processes.
    """
    lengths = batch.lengths_N.tolist()
    row_N = [len(batch.prompts[g]) + length for g, length in zip(batch.group_N.tolist(), lengths, strict=True)]
    pieces, start = [], 0
    for prompt, size in zip(batch.prompts, batch.group_sizes, strict=True):
        group = range(start, start := start + size)
        units = [tuple(group)] if whole_groups else [(n,) for n in group]
        counted = lengths if shared_prefix else row_N
        tokens = [Unit(sum(counted[n] for n in unit), unit) for unit in units]
        pieces.append(Piece(len(prompt) if shared_prefix else 0, tuple(sorted(tokens, reverse=True))))

    def padded(share: Share) -> int:
        rows = [row_N[n] for n in indices(share)]
        return len(rows) * max(rows, default=0)

    dealt = deal_pieces(pieces, processes, max_tokens, tokens_of if shared_prefix else padded)
    return [[sorted(indices(share)) for share in shares] for shares in dealt]


def indices(share: Share) -> list[int]:
    return [n for piece in share for unit in piece.units for n in unit.indices]


def tokens_of(share: Share) -> int:
    return sum(piece.tokens for piece in share)


def deal_pieces(
    groups: Sequence[Piece], processes: int, max_tokens: int, size: Callable[[Share], int] = tokens_of
) -> list[list[Share]]:
    """As `deal`, of groups that are not split yet; `size` is the tokens that a micro-batch takes, padding included."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be positive, not {max_tokens}")

    def fits(share: Share) -> bool:
        return size(share) <= max_tokens or sum(len(piece.units) for piece in share) == 1

    shares = divide(groups, processes)
    number = max(1, -(-max(map(tokens_of, shares)) // max_tokens))
    while True:
        ways = [[sorted(parts, key=size, reverse=True) for parts in way] for way in _ways(shares, number, max_tokens)]
        if fitting := [way for way in ways if all(fits(part) for parts in way for part in parts)]:
            return min(fitting, key=lambda way: _waited([[size(part) for part in parts] for parts in way]))
        number += 1


def _ways(shares: Sequence[Share], number: int, max_tokens: int) -> Iterator[list[list[Share]]]:
    """So many micro-batches of each process: as even as may be, and fuller first ones, which split fewer groups."""
    yield [divide(share, number) for share in shares]
    even = max(map(tokens_of, shares)) // number
    for step in range(STEPS + 1):
        room = even + (max_tokens - even) * step // STEPS
        found = [parts for share in shares if (parts := _filled(share, number, room)) is not None]
        if len(found) == len(shares):
            yield [_without_idle(list(parts)) for parts in found]
            yield found  # a process may be done with a whole group while others run the rest of theirs


def _waited(dealt: Sequence[Sequence[int]]) -> int:
    """Tokens of the largest in each micro-batch: so long does each process take."""
    return sum(max(layer) for layer in zip(*dealt, strict=True))


def busy_share(dealt: Sequence[Sequence[int]]) -> float:
    """How much of their time processes compute, given the tokens of each one's micro-batches, each waited for."""
    waited = _waited(dealt)
    return sum(map(sum, dealt)) / (len(dealt) * waited) if waited else 1.0


def idle_note(units: int, processes: int, more: str) -> str | None:
    """What to say where a step has too few units for its processes; `more` is how to give it more of them."""
    most = -(-units // processes)
    idle = 1 - units / (processes * most)
    if idle < IDLE_IS_SAID:
        return None
    return (
        f"a step has {units} parts that can be dealt to {processes} processes: where they are equally long, processes "
        f"wait {idle:.0%} of the time that it trains, and more where they are not; take {more}, or fewer processes"
    )


def divide(pieces: Sequence[Piece], number: int) -> list[Share]:
    """So many shares, of which the largest is as small as this finds."""
    total = sum(piece.tokens for piece in pieces)
    best: list[Share] = [list(pieces), *([] for _ in range(number - 1))]
    low, high = -(-total // number) - 1, total
    while high - low > 1:
        room = (low + high) // 2
        if (found := _filled(pieces, number, room)) is None:
            low = room
        else:
            best, high = found, room
    return _without_idle(best)


def _filled(pieces: Sequence[Piece], number: int, room: int) -> list[Share] | None:
    """Shares of at most so many tokens; None where they are not found."""
    shares: list[Share] = [[] for _ in range(number)]
    free = [room] * number
    for piece in sorted(pieces, key=lambda piece: -piece.tokens):
        left = piece
        while left.units:
            where = _place(free, left.tokens)
            taken, left = _cut(left, free[where])
            if not taken.units:
                return None
            shares[where].append(taken)
            free[where] -= taken.tokens
    return shares


def _place(free: list[int], tokens: int) -> int:
    """Where it fits most closely; else where most is free."""
    fitting = [where for where, room in enumerate(free) if room >= tokens]
    return min(fitting, key=free.__getitem__) if fitting else max(range(len(free)), key=free.__getitem__)


def _cut(piece: Piece, room: int) -> tuple[Piece, Piece]:
    """What of it fits, the longest units first; and the rest."""
    room -= piece.prompt
    taken: list[Unit] = []
    left: list[Unit] = []
    for unit in piece.units:
        fits = unit.tokens <= room
        (taken if fits else left).append(unit)
        room -= unit.tokens * fits
    return replace(piece, units=tuple(taken)), replace(piece, units=tuple(left))


def _without_idle(shares: list[Share]) -> list[Share]:
    """Half of the fullest goes to who has nothing, as long as there is anything to halve."""
    while [] in shares:
        splittable = [share for share in shares if sum(len(piece.units) for piece in share) > 1]
        if not splittable:
            break
        fullest = max(splittable, key=tokens_of)
        shares[shares.index(fullest)], shares[shares.index([])] = _halves(fullest)
    return shares


def _halves(share: Share) -> tuple[Share, Share]:
    if len(share) > 1:
        return share[::2], share[1::2]
    (piece,) = share
    return [replace(piece, units=piece.units[::2])], [replace(piece, units=piece.units[1::2])]
