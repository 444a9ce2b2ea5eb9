"""A tiny random Qwen2.5-VL with everything that a real model's folder holds, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

VOCABULARY_SIZE = 400
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEXT = """\
Reason inside <think> </think>, then answer inside <answer> </answer>.
Reason inside <reasoning> </reasoning>, then answer inside <solution> </solution>.
Reason first, then end with the answer in \\boxed{}. Reply with JSON: {"reasoning": "...", "answer": "..."}.
<think>There are two red circles and three blue squares, so the answer is 5.</think><answer>5</answer>
<think>The green triangle is left of the yellow square, so the answer is (B).</think><answer>B</answer>
<reasoning>Subtract all small circles: 7 - 3 = 4 things are left.</reasoning><solution>4</solution>
How many shapes are in the picture? How many red squares are there? Which colour has more circles?
What is shown in the image? Choose the letter of the right option. (A) red (B) green (C) blue (D) yellow
The sum of the numbers in each row and each column is the same. Find the value of x. The answer is $\\frac{1}{2}$.
"""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_qwen2_5_vl(folder: Path, heads: int = 4, tied: bool = True) -> Path:
    """Save the model (float32, the same weights each time), tokenizer, processor and generation config into `folder`.

    Two `heads` have the size of 32 that vLLM needs on a CPU. With `tied`, the head is the embeddings. Images keep their
    size between 56x56 and 112x112 pixels, so that one takes 4 to 16 tokens.
    """
    tokenizer = tiny_tokenizer()
    id_of = tokenizer.get_vocab()
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "max_position_embeddings": 2048,
            # Half the head's size: its time, height and width frequencies.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": {4: [2, 3, 3], 2: [4, 6, 6]}[heads],
            },
            "tie_word_embeddings": tied,
            "bos_token_id": id_of["<|endoftext|>"],
            "eos_token_id": id_of["<|im_end|>"],
            "pad_token_id": id_of["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=id_of["<|image_pad|>"],
        video_token_id=id_of["<|video_pad|>"],
        vision_start_token_id=id_of["<|vision_start|>"],
        vision_end_token_id=id_of["<|vision_end|>"],
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=id_of["<|endoftext|>"],
        eos_token_id=[id_of["<|im_end|>"], id_of["<|endoftext|>"]],
        pad_token_id=id_of["<|endoftext|>"],
    )
    model.save_pretrained(folder)
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text can be written, with merges for the words of such questions and answers."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
        model_max_length=2048,
    )
