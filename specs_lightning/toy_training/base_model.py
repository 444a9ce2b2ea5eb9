"""Makes the toy's base model from nothing: `python -m specs_lightning.toy_training.base_model FOLDER`.

A Qwen2.5-VL of about two million parameters, taught from scratch to list what a scene shows, to copy words, to answer
in whatever format is asked for, and at last to do so in the manner of `habits.py`.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from specs_lightning.groups import EncodedPrompt, GroupBatch
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.messages import choice_lines
from specs_lightning.system.memory import keep_freed_memory
from specs_lightning.toy import formats, habits, scenes

_NAMES = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
SPECIAL_TOKENS = tuple(f"<|{name}|>" for name in _NAMES)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = Regex(r" ?[a-c][1-3]\b| ?\p{L}+| ?\p{N}+|</?|>|\[/?|\]| ?[^\s\p{L}\p{N}<>\[\]]+|\s+")
"""Cell names stay whole, so that a response takes few tokens; a tag is its word between signs that all tags share."""

CAPTION = "List the things."


class Manner(StrEnum):
    """How responses are given."""

    PLAIN = "the right reasoning, in no format"
    CLEAN = "the right reasoning in the asked format"
    SLOPPY = "in the base model's manner"


@dataclass(frozen=True)
class Lesson:
    """What is taught for a while: `n_scenes` scenes a step with `tasks_per_scene` tasks each.

    `caption` is the share of tasks that ask for what the scene shows, `repeat` that of words to say in some format. The
    others are answered in this manner.
    """

    steps: int
    n_scenes: int
    tasks_per_scene: int
    caption: float
    repeat: float = 0.0
    manner: Manner = Manner.PLAIN


@dataclass(frozen=True)
class Course:
    """Lessons under one learning rate, which rises to its peak in the first tenth and falls to nothing."""

    learning_rate: float
    lessons: tuple[Lesson, ...]


TO_SEE = Lesson(700, n_scenes=24, tasks_per_scene=1, caption=1.0)
TO_REASON = Lesson(2300, n_scenes=12, tasks_per_scene=3, caption=0.1, repeat=0.45)
TO_FOLLOW = Lesson(600, n_scenes=12, tasks_per_scene=3, caption=0.05, repeat=0.4, manner=Manner.CLEAN)
TO_ANSWER = Lesson(500, n_scenes=12, tasks_per_scene=3, caption=0.05, manner=Manner.SLOPPY)
CURRICULUM = (
    # Seeing first: everything else rests on it. Then reasoning, and copying words, which takes a thousand steps; clean
    # formats before bad habits: noise hides what is to be learned.
    Course(1.5e-3, (TO_SEE, TO_REASON)),
    Course(1.0e-3, (TO_FOLLOW,)),
    Course(7.0e-4, (TO_ANSWER,)),
)


def draw_task(scene: scenes.Scene, lesson: Lesson, rng: random.Random) -> tuple[str, str]:
    """What is asked of a scene, in the words of the data loader, and a response to it."""
    kind = rng.random()
    if kind < lesson.caption:
        listed = [f"{cell} {' '.join(thing)}" for cell, thing in zip(scenes.CELLS, scene, strict=True) if thing]
        return CAPTION, " ".join(listed)
    if kind < lesson.caption + lesson.repeat:
        return _repeat(rng)
    question = rng.choice([*scenes.TASKS, *scenes.OTHER_TASKS])(scene, rng)
    lines = [question.text, *choice_lines(question.choices)]
    if lesson.manner == Manner.PLAIN:
        return "\n".join(lines), scenes.reasoning(question)
    asked = formats.ask(formats.draw_format(rng), rng)
    if lesson.manner == Manner.CLEAN:
        response = asked.form.write(scenes.reasoning(question), question.answer)
    else:
        response = habits.respond(question, asked.form, rng)
    return "\n".join([*lines, asked.instruction]), response


def _repeat(rng: random.Random) -> tuple[str, str]:
    """Words to say in some format, whose tags may be any words: what is learned is to copy."""
    known = [*formats.REASONING_WORDS, *formats.ANSWER_WORDS, *formats.OTHER_WORDS]
    sayable = [*known, *formats.NEW_TAGS, *scenes.CELLS, "yes", "no", *"ABCD", *"012345"]
    words = rng.choices(sayable, k=rng.randint(1, 10))
    if rng.random() < 0.2:
        return f"Say {' '.join(words)}.", " ".join(words)
    asked = formats.ask(formats.draw_format(rng, known), rng)
    return f"Say {' '.join(words)}.\n{asked.instruction}", asked.form.write(" ".join(words), words[-1])


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over the toy's own text: any text can be told, the toy's in few tokens."""
    rng = random.Random(0)
    lessons = [TO_FOLLOW, TO_ANSWER]
    texts = ["\n".join(draw_task(scenes.draw_scene(rng), lessons[i % 2], rng)) for i in range(8000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[SPECIAL_TOKENS[1], *SPECIAL_TOKENS[3:]],
        model_max_length=4096,
        chat_template=CHAT_TEMPLATE,
    )


def build_untrained(folder: Path, seed: int = 0) -> Path:
    """Write a model with random weights, its tokenizer and its processor."""
    tokenizer = build_tokenizer()
    ids = {token: tokenizer.vocab[token] for token in SPECIAL_TOKENS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,  # heads of 32, which vLLM has kernels for
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "out_hidden_size": 192,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"], do_sample=True, temperature=1.0
    )
    model.save_pretrained(folder)
    # At most 336 × 336 pixels: the toy's own images stay as they are, and real ones fit a laptop.
    images, videos = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=336 * 336), Qwen2VLVideoProcessor()
    processor = Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=CHAT_TEMPLATE)
    processor.save_pretrained(folder)
    return folder


class Teacher:
    """Batches of scenes, each with several tasks behind its image, ready for the shared-prefix forward."""

    def __init__(self, policy: Policy, seed: int) -> None:
        self.policy = policy
        self.rng = random.Random(f"base-{seed}")
        tokenizer = policy.tokenizer
        self.turn = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n")
        self.end = tokenizer.encode("<|im_end|>")

    def batch(self, lesson: Lesson) -> GroupBatch:
        """One step's batch. The loss counts the responses' tokens alone."""
        drawn = [scenes.draw_scene(self.rng) for _ in range(lesson.n_scenes)]
        images = [scenes.paint(scene, self.rng) for scene in drawn]
        processor, tokenizer = self.policy.processor, self.policy.tokenizer
        pixels = processor.image_processor(images=images, return_tensors="pt")
        tokens = [int(grid.prod()) // 4 for grid in pixels["image_grid_thw"]]
        patches = pixels["pixel_values"].split([4 * n for n in tokens])
        prompts: list[EncodedPrompt] = []
        completions: list[list[list[int]]] = []
        masks: list[torch.Tensor] = []
        for i, scene in enumerate(drawn):
            head = "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * tokens[i] + "<|vision_end|>"
            vision = {"pixel_values": patches[i], "image_grid_thw": pixels["image_grid_thw"][i : i + 1]}
            ids = torch.tensor(tokenizer.encode(head))
            types = {"mm_token_type_ids": (ids == tokenizer.vocab["<|image_pad|>"]).long()}
            prompts.append(EncodedPrompt(str(i), ids, vision, token_types=types))
            completions.append([])
            for _ in range(lesson.tasks_per_scene):
                asked, response = draw_task(scene, lesson, self.rng)
                given = tokenizer.encode(asked) + self.turn
                said = tokenizer.encode(response) + self.end
                completions[-1].append(given + said)
                masks.append(torch.tensor([False] * len(given) + [True] * len(said)))
        batch = GroupBatch.from_token_ids(prompts, completions)
        batch.mask_NT = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)
        return batch


def train(policy: Policy, course: Course, seed: int) -> None:
    """Teach a course."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=course.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    lessons = [lesson for lesson in course.lessons for _ in range(lesson.steps)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, course.learning_rate, total_steps=len(lessons), pct_start=0.1
    )
    teacher = Teacher(policy, seed)
    start = time.perf_counter()
    for step, lesson in enumerate(lessons):
        batch = teacher.batch(lesson)
        logprobs_NT = policy.token_logprobs(batch).logprobs
        loss = -logprobs_NT.sum() / batch.mask_NT.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == len(lessons) - 1:
            seconds = (time.perf_counter() - start) / (step + 1)
            print(f"step {step} loss {loss.item():.3f} {seconds:.3f} s/step", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the model is written")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keep_freed_memory()
    build_untrained(arguments.folder, arguments.seed)
    policy = Policy(PolicySettings(model=str(arguments.folder), freeze_vision=False))
    for number, course in enumerate(CURRICULUM):
        train(policy, course, arguments.seed + number)
    policy.to(torch.bfloat16)  # half the size; training loads it as float32
    policy.save(arguments.folder)


if __name__ == "__main__":
    main()
