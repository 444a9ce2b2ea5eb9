"""The scenes data set: coloured shapes on a 3×3 grid, and questions that take looking, counting and comparing.

An image is 84×84 pixels; each 28×28 cell becomes one image token of a Qwen2.5-VL with patches of 14. Every scene and
question follows from a seed. A question carries the reasoning that answers it, which the base model is taught to
imitate (badly, see `habits.py`) and which no training stage of the method ever sees.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw

from specs_lightning.prompts.images import png
from specs_lightning.toy.formats import NEW_TAGS

VERSION = 1
"""Raised whenever the same seed gives other data. A set that is added changes no other."""

CELL = 28
COLOURS = {"red": (220, 40, 40), "green": (30, 150, 60), "blue": (40, 70, 210), "yellow": (235, 200, 30)}
SHAPES = ("circle", "square", "triangle")
CELLS = tuple(column + row for row in "123" for column in "abc")
"""In reading order: a1 b1 c1, then a2 b2 c2, then a3 b3 c3."""

Thing = tuple[str, str]
"""A colour and a shape."""
Scene = tuple[Thing | None, ...]
"""What stands in each cell, in reading order."""
Criterion = tuple[str, Callable[[Thing], bool]]
"""What is looked for, in words and as a test."""
Colour = tuple[int, int, int]
Steps = tuple[tuple[str, tuple[int, ...]], ...]
"""What is said of each thing looked at, and the counts after it."""


@dataclass(frozen=True)
class SceneQuestion:
    """A question about a scene, its answer, and the steps that lead to it.

    Args:
        task: which kind of question it is.
        steps: what is said of each thing looked at, and the count after it ("a1 red circle is red yes", 1).
        conclude: the answer that follows from counts; a letter for multiple choice.
    """

    text: str
    answer_type: str
    task: str
    steps: Steps
    conclude: Callable[[tuple[int, ...]], str]
    choices: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        return self.conclude(self.steps[-1][1])


@dataclass(frozen=True)
class Style:
    """How scenes are painted."""

    shades: dict[str, Colour]
    """What each colour's name looks like."""
    background: Colour = (245, 245, 245)
    shift: int = 0
    """By up to so many pixels the whole grid is moved, each way: things then lie across the borders of image tokens."""


USUAL = Style(COLOURS)


def draw_scene(rng: random.Random) -> Scene:
    """Between two and seven things, anywhere on the grid."""
    occupied = set(rng.sample(range(9), rng.randint(2, 7)))
    return tuple((rng.choice(list(COLOURS)), rng.choice(SHAPES)) if i in occupied else None for i in range(9))


def paint(scene: Scene, rng: random.Random, style: Style = USUAL) -> Image.Image:
    """The picture of a scene: each thing a little off its cell's centre, and of its own size."""
    image = Image.new("RGB", (3 * CELL, 3 * CELL), style.background)
    pen = ImageDraw.Draw(image)
    right, down = (rng.randint(-style.shift, style.shift) if style.shift else 0 for _ in range(2))
    for i, thing in enumerate(scene):
        if thing is None:
            continue
        colour, shape = thing
        radius = rng.randint(8, 10)
        x = CELL * (i % 3) + CELL // 2 + rng.randint(-3, 3) + right
        y = CELL * (i // 3) + CELL // 2 + rng.randint(-3, 3) + down
        box = (x - radius, y - radius, x + radius, y + radius)
        if shape == "circle":
            pen.ellipse(box, fill=style.shades[colour])
        elif shape == "square":
            pen.rectangle(box, fill=style.shades[colour])
        else:
            corners = [(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)]
            pen.polygon(corners, fill=style.shades[colour])
    return image


# ---------------------------------------------------------------------------------------------------- questions


def _things(scene: Scene) -> list[tuple[str, Thing]]:
    return [(cell, thing) for cell, thing in zip(CELLS, scene, strict=True) if thing is not None]


def _looked_at(scene: Scene, *criteria: Criterion, invert: bool = False) -> Steps:
    """Each thing in reading order held against each criterion, and how many met it so far (or, inverted, did not)."""
    counts = [0] * len(criteria)
    steps = []
    for cell, thing in _things(scene):
        met = [matches(thing) for _, matches in criteria]
        counts = [count + (yes != invert) for count, yes in zip(counts, met, strict=True)]
        checks = [f"is {words} {'yes' if yes else 'no'}" for (words, _), yes in zip(criteria, met, strict=True)]
        steps.append((" ".join([cell, *thing, *checks]), tuple(counts)))
    return tuple(steps)


def _criterion(rng: random.Random, scene: Scene) -> Criterion:
    """Something to look for: more often than not it is there."""
    things = [thing for thing in scene if thing is not None]
    colour, shape = rng.choice(things) if rng.random() < 0.8 else (rng.choice(list(COLOURS)), rng.choice(SHAPES))
    pick = rng.random()
    if pick < 0.4:
        return colour, lambda thing: thing[0] == colour
    if pick < 0.8:
        return shape, lambda thing: thing[1] == shape
    return f"{colour} {shape}", lambda thing: thing == (colour, shape)


def count(scene: Scene, rng: random.Random) -> SceneQuestion:
    criterion = _criterion(rng, scene)
    steps = _looked_at(scene, criterion)
    return SceneQuestion(f"How many things match {criterion[0]}?", "number", "count", steps, _first)


def subtract(scene: Scene, rng: random.Random) -> SceneQuestion:
    criterion = _criterion(rng, scene)
    steps = _looked_at(scene, criterion, invert=True)
    text = f"Remove what matches {criterion[0]}. How many things are left?"
    return SceneQuestion(text, "number", "subtract", steps, _first)


def compare(scene: Scene, rng: random.Random) -> SceneQuestion:
    one, other = rng.sample(list(COLOURS), 2) if rng.random() < 0.5 else rng.sample(SHAPES, 2)
    steps = _looked_at(scene, (one, lambda thing: one in thing), (other, lambda thing: other in thing))
    return SceneQuestion(f"Do more things match {one} than {other}?", "text", "compare", steps, _more)


def choose(scene: Scene, rng: random.Random) -> SceneQuestion:
    i = rng.randrange(9)
    right = " ".join(scene[i] or ("nothing",))
    options = {right, *(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES), "nothing"}
    choices = [right, *rng.sample(sorted(options - {right}), 3)]
    rng.shuffle(choices)
    letter = "ABCD"[choices.index(right)]
    checks = [f"{option} {text} no" for option, text in zip("ABCD", choices[: choices.index(right)], strict=False)]
    step = (" ".join([CELLS[i], right, *checks, letter, right, "yes"]), (choices.index(right),))
    text = f"What is at {CELLS[i]}?"
    return SceneQuestion(text, "choice", "choose", (step,), lambda c: "ABCD"[c[0] % 4], tuple(choices))


def row(scene: Scene, rng: random.Random) -> SceneQuestion:
    """A kind of question that the base knows but no training stage asks: out of distribution by task."""
    return _in_line(
        scene, rng, "row", {name: CELLS[3 * i : 3 * i + 3] for i, name in enumerate(("top", "middle", "bottom"))}
    )


def column(scene: Scene, rng: random.Random) -> SceneQuestion:
    """Another such."""
    columns = {name: CELLS[i::3] for i, name in enumerate(("left", "middle", "right"))}
    return _in_line(scene, rng, "column", columns)


def _in_line(scene: Scene, rng: random.Random, task: str, lines: dict[str, tuple[str, ...]]) -> SceneQuestion:
    name, cells = rng.choice(list(lines.items()))
    counts, steps = 0, []
    for cell, thing in _things(scene):
        counts += cell in cells
        steps.append((f"{cell} {' '.join(thing)} is {name} {'yes' if cell in cells else 'no'}", (counts,)))
    return SceneQuestion(f"How many things are in the {name} {task}?", "number", task, tuple(steps), _first)


def _first(counts: tuple[int, ...]) -> str:
    return str(counts[0])


def _more(counts: tuple[int, ...]) -> str:
    return "yes" if counts[0] > counts[1] else "no"


TASKS = (count, subtract, compare, choose)
"""What training asks."""
OTHER_TASKS = (row, column)
"""What the base knows besides."""


def reasoning(question: SceneQuestion) -> str:
    """The question's steps in words, and what follows from them. A count is told when it changes."""
    said: list[str] = []
    told = (0,) * len(question.steps[0][1])
    for what, counts in question.steps:
        said.append(what)
        if counts != told and not question.choices:
            said += map(str, counts)
            told = counts
    return " ".join([*said, "so", question.answer])


# ---------------------------------------------------------------------------------------------------- data sets


Task = Callable[[Scene, random.Random], SceneQuestion]


@dataclass(frozen=True)
class DataSet:
    """What one file holds: `size` questions about the scenes of `seed`."""

    seed: int
    size: int
    answer_format: str = "think_answer"
    """The one that all of them ask for."""
    task: Task | None = None
    """The one kind of question; those of `TASKS` in turn if None."""
    style: Style = USUAL


DARK = {"red": (120, 10, 10), "green": (10, 80, 30), "blue": (15, 25, 110), "yellow": (140, 115, 10)}
GREY = (120, 120, 125)

DATA_SETS: dict[str, DataSet] = {
    "train": DataSet(seed=1, size=4000),
    "pairs": DataSet(seed=2, size=1200),
    "id": DataSet(seed=3, size=500),
    "ood_boxed": DataSet(seed=3, size=500, answer_format="boxed"),
    "ood_json": DataSet(seed=3, size=500, answer_format="json"),
    "ood_tags": DataSet(seed=3, size=500, answer_format="reasoning_solution"),
    "ood_new_tags": DataSet(seed=3, size=500, answer_format=f"tags:{','.join(NEW_TAGS)}"),
    "ood_brackets": DataSet(seed=3, size=500, answer_format="brackets:work,result"),
    "ood_task": DataSet(seed=3, size=500, task=row),
    "ood_column": DataSet(seed=3, size=500, task=column),
    "ood_colours": DataSet(seed=3, size=500, style=Style(DARK)),
    "ood_background": DataSet(seed=3, size=500, style=Style(COLOURS, background=GREY)),
    "ood_jitter": DataSet(seed=3, size=500, style=Style(COLOURS, shift=6)),
}
"""The evaluation sets show the same held-out scenes, and each is out of distribution in one respect: the answer format
(`ood_boxed`, `ood_json`, `ood_tags`, `ood_new_tags`, `ood_brackets`), the kind of question (`ood_task`, `ood_column`),
or what the image looks like (`ood_colours`, `ood_background`, `ood_jitter`)."""

DATA_SETS |= {f"dev_{name}": replace(held_out, seed=5) for name, held_out in DATA_SETS.items() if held_out.seed == 3}
"""The same of other scenes: to choose settings on, so that what is reported was not chosen for its figures."""


def examples(
    seed: int, size: int, task: Task | None = None, style: Style = USUAL
) -> list[tuple[Image.Image, SceneQuestion]]:
    """The first `size` scenes of a seed, each with one question: of one task, or of those of `TASKS` in turn.

    Another task leaves the pictures as they are, and another style the questions.
    """
    rng = random.Random(f"scenes-{VERSION}-{seed}")
    made = []
    for i in range(size):
        scene = draw_scene(rng)
        image, question = paint(scene, rng), TASKS[i % len(TASKS)](scene, rng)
        own = random.Random(f"scenes-{VERSION}-{seed}-{i}")
        if style != USUAL:
            image = paint(scene, own, style)
        if task is not None:
            question = task(scene, own)
        made.append((image, question))
    return made


def write_data_set(name: str, file: Path) -> None:
    """Write a data set as parquet, images inside: `id, question, answer, answer_type, …, image`."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    settings = DATA_SETS[name]
    rows = [
        {
            "id": f"{settings.seed}-{i}",
            "question": question.text,
            "choices": list(question.choices),
            "answer": question.answer,
            "answer_type": question.answer_type,
            "answer_format": settings.answer_format,
            "task": question.task,
            "image": {"bytes": png(image), "path": None},
        }
        for i, (image, question) in enumerate(examples(settings.seed, settings.size, settings.task, settings.style))
    ]
    text = ("id", "question", "answer", "answer_type", "answer_format", "task")
    features = Features(
        {**{column: Value("string") for column in text}, "choices": List(Value("string")), "image": ImageFeature()}
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")  # two runs may write it at once
    Dataset.from_list(rows, features=features).to_parquet(partial)
    partial.replace(file)
