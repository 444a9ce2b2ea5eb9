"""The toy's teacher of another kind: a deeper model that reasons in other words than the base, and with care.

`toy:deep` is the base with twice as many layers, `toy:lessons` what it is taught. Training it is an ordinary
supervised fine-tuning: configs/toy/teacher.yaml.
"""

from __future__ import annotations

import random
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers

from specs_lightning.groups import Prompt
from specs_lightning.prompts.images import png
from specs_lightning.prompts.messages import build_messages
from specs_lightning.records.pairs import PreferencePair, write_pairs
from specs_lightning.scoring.answer_formats import answer_format
from specs_lightning.system.files import atomic
from specs_lightning.toy import habits, scenes

ASKED = "think_answer"
SEED, SIZE = 4, 4000
"""Of the lessons' scenes, which no other data set shows."""


def explain(question: scenes.SceneQuestion) -> str:
    """The reasoning that answers a question, step by step as `scenes.reasoning`, in other words."""
    said = []
    for what, counts in question.steps:
        looked = re.sub(r"\byes\b", "match", what.replace(" is ", ", "))
        told = [] if question.choices else map(str, counts)
        said.append(" ".join(["at", looked, *told]))
    return "; ".join(said) + f"\nThe answer is {question.answer}"


def write_lessons(file: Path) -> None:
    """Write pairs of which the chosen side is what the teacher shall say, the rejected what the base might."""
    rng = random.Random(f"lessons-{scenes.VERSION}")
    pairs = []
    for i, (image, question) in enumerate(scenes.examples(SEED, SIZE)):
        messages = build_messages(question.text, 1, question.choices, ASKED)
        prompt = Prompt(
            f"{SEED}-{i}", messages, (png(image),), question.answer, question.answer_type, answer_format=ASKED
        )
        chosen = answer_format(ASKED).write(explain(question), question.answer)
        pairs.append(PreferencePair(prompt, chosen, habits.respond(question, answer_format(ASKED), rng)))
    write_pairs(pairs, file)


def write_deeper(source: Path, folder: Path) -> None:
    """Write the model in `source` with a copy behind each layer that adds nothing yet (block expansion, arXiv
    2401.02415): the same function, with twice the depth to learn in.
    """
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(source, trust_remote_code=False)
    text: Any = model.config.text_config
    text.num_hidden_layers, text.layer_types = 2 * text.num_hidden_layers, 2 * text.layer_types
    layers = torch.nn.ModuleList()
    for layer in model.model.language_model.layers:
        added = deepcopy(layer)
        torch.nn.init.zeros_(added.self_attn.o_proj.weight)
        torch.nn.init.zeros_(added.mlp.down_proj.weight)
        layers.extend([layer, added])
    model.model.language_model.layers = layers
    with atomic(folder) as partial:
        model.save_pretrained(partial)
        transformers.AutoProcessor.from_pretrained(source, trust_remote_code=False).save_pretrained(partial)
