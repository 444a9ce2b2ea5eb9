"""What is cut and gathered at a time."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from lightning.pytorch.strategies import StrategyRegistry
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedModel

from specs_lightning.policy.families import FAMILIES, vision_modules
from specs_lightning.policy.loading import model_class
from specs_lightning.strategies import FSDP2
from specs_lightning.strategies.fsdp2 import blocks


def without_weights(family: str) -> PreTrainedModel:
    config = CONFIG_MAPPING[family]()
    config.get_text_config().pad_token_id = 0  # Idefics3's is beyond its vocabulary
    with torch.device("meta"):
        return model_class(config).from_config(config)


def size(modules: Iterable[nn.Module]) -> int:
    return sum(p.numel() for p in {p for module in modules for p in module.parameters()})


LANGUAGE_MODELS_ALONE = {"glm4v_text", "qwen3_5_text"}
"""Of models with images; transformers has no model of them by themselves, or none in this form."""
EMBEDS_IN_EACH_LAYER = {"gemma4"}
"""Embeddings of its own, which are looked up as the others are."""


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in LANGUAGE_MODELS_ALONE])
def test_blocks_are_the_layers_of_language_model_and_vision_tower(family: str) -> None:
    model = without_weights(family)
    found = blocks(model)
    vision = {module for tower in vision_modules(model) for module in tower.modules()}
    layers = [block for block in found if block not in vision]
    assert len(layers) == model.config.get_text_config().num_hidden_layers
    assert len({type(layer) for layer in layers}) == 1
    assert not any(block in other.modules() for block in found for other in found if other is not block)
    # What is in no block is gathered as one: embeddings, the head, the projector, and little else.
    known = {model.get_input_embeddings(), model.get_output_embeddings(), *layers, *vision}
    if family in EMBEDS_IN_EACH_LAYER:
        language = model.base_model.language_model
        known |= {language.embed_tokens_per_layer, language.per_layer_model_projection}
    assert size([model]) - size(known) < 0.001 * size([model])
    if vision:
        assert size(block for block in found if block in vision) > 0.5 * size(vision)


def test_it_is_registered_by_its_name() -> None:
    assert StrategyRegistry.get("fsdp2").__class__ is FSDP2


def test_there_must_be_a_replica() -> None:
    with pytest.raises(ValueError, match="replicas must be positive, not 0"):
        FSDP2(replicas=0)
