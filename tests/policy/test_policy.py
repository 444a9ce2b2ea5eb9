"""The policy's own distribution, and what it is saved as."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny_policies import encode, mixed_batch, plain_inputs, sharp_policy
from transformers import AutoModelForImageTextToText, AutoProcessor

from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.policy import Policy


@pytest.fixture(scope="module")
def policy(tiny_model_path: Path) -> Policy:
    return sharp_policy(tiny_model_path)


@pytest.fixture(scope="module")
def folder(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the policy was saved to; read only."""
    return policy.save(tmp_path_factory.mktemp("save") / "exported")


def test_loading_weights_counts_as_a_change(policy: Policy, tiny_model_path: Path) -> None:
    other = sharp_policy(tiny_model_path)
    other.load_state_dict(policy.state_dict())
    assert other.version == 1


class TestDistribution:
    def test_vision_ids_are_banned(self, policy: Policy) -> None:
        config = policy.model.config
        assert policy.banned_ids.tolist() == sorted(
            [config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id]
        )

    def test_training_mode_does_not_change_it(self, tiny_model_path: Path) -> None:
        """Dropout would make trainer and engine disagree."""
        policy = sharp_policy(tiny_model_path)
        for layer in policy.model.base_model.language_model.layers:
            layer.self_attn.attention_dropout = 0.5
        batch = mixed_batch(policy, 2)
        expected_NT = policy.token_logprobs(batch).logprobs
        assert torch.equal(policy.train().token_logprobs(batch).logprobs, expected_NT)

    def test_bfloat16_weights_give_float32_logprobs(self, tiny_model_path: Path) -> None:
        policy = sharp_policy(tiny_model_path, dtype="bfloat16")
        assert {weight.dtype for weight in policy.parameters()} == {torch.bfloat16}
        assert policy.token_logprobs(mixed_batch(policy, 1)).logprobs.dtype == torch.float32


class TestSave:
    def test_plain_transformers_loads_it_with_equal_logits(self, policy: Policy, folder: Path) -> None:
        loaded = AutoModelForImageTextToText.from_pretrained(folder).eval()
        prompt = encode(policy, "p", "How many?", [(84, 84), (56, 112)])
        with torch.no_grad():
            inputs = plain_inputs(policy, prompt)
            # The policy multiplies patches where transformers convolves them: equal but for rounding.
            torch.testing.assert_close(loaded(**inputs).logits, policy.model(**inputs).logits, rtol=1e-5, atol=1e-5)

    def test_the_processor_comes_with_it(self, policy: Policy, folder: Path) -> None:
        processor = AutoProcessor.from_pretrained(folder)
        assert processor.chat_template == policy.processor.chat_template
        assert processor.image_processor.to_dict() == policy.processor.image_processor.to_dict()
        text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many?<|im_end|>\n"
        assert processor.tokenizer(text).input_ids == policy.tokenizer(text).input_ids

    def test_the_generation_config_keeps_its_end_tokens(self, policy: Policy, folder: Path) -> None:
        loaded = AutoModelForImageTextToText.from_pretrained(folder)
        assert loaded.generation_config.eos_token_id == policy.model.generation_config.eos_token_id
        assert len(loaded.generation_config.eos_token_id) == 2

    def test_it_holds_safetensors_and_nothing_is_left_beside_it(self, folder: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        assert not list(folder.glob("*.bin"))
        assert [path.name for path in folder.parent.iterdir()] == ["exported"]

    def test_it_is_a_policy_again(self, policy: Policy, folder: Path) -> None:
        batch = mixed_batch(policy, 2)
        again = Policy(PolicySettings(str(folder)))
        assert torch.equal(again.token_logprobs(batch).logprobs, policy.token_logprobs(batch).logprobs)

    def test_saving_again_replaces_the_folder(self, tiny_model_path: Path, tmp_path: Path) -> None:
        policy = sharp_policy(tiny_model_path)
        folder = policy.save(tmp_path / "model")
        (folder / "stale.txt").write_text("of the first save")
        with torch.no_grad():
            policy.model.get_input_embeddings().weight += 1
        policy.save(folder)
        assert not (folder / "stale.txt").exists()
        loaded = AutoModelForImageTextToText.from_pretrained(folder)
        assert torch.equal(loaded.get_input_embeddings().weight, policy.model.get_input_embeddings().weight)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    def test_a_save_that_fails_leaves_the_old_folder_whole(
        self, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(folder: Path) -> None:
            raise OSError("disk full")

        folder = policy.save(tmp_path / "model")
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with monkeypatch.context() as patch:
            patch.setattr(policy.processor, "save_pretrained", fail)
            with pytest.raises(OSError, match="disk full"):
                policy.save(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        policy.save(folder)  # and the next one is not disturbed by what that one left
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    def test_the_old_folder_is_never_deleted_before_the_new_one_is_in_its_place(
        self, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Deleting takes time, and half a folder looks like a model."""
        folder = policy.save(tmp_path / "model")
        delete = shutil.rmtree

        def watch(path: Path, **options: bool) -> None:
            assert path != folder
            delete(path, **options)

        monkeypatch.setattr(shutil, "rmtree", watch)
        policy.save(folder)
        assert (folder / "config.json").is_file()


def test_one_process_has_all_of_a_step_and_no_dummy_prompts(policy: Policy) -> None:
    """What several do together is in strategies/test_two_processes.py."""
    batch = mixed_batch(policy, completions_per_prompt=3)
    parts = policy.micro_batches(batch, max_tokens=60)
    assert len(parts) > 1 and all(part.dummy_prompt is None for part in parts)
    assert sum(map(len, parts)) == len(batch)
