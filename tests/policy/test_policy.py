from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny_policies import encode, mixed_batch, plain_inputs, sharp_policy
from transformers import AutoModelForImageTextToText, AutoProcessor

from specs_lightning.errors import SpecsError
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.policy import Policy


@pytest.fixture(scope="module")
def policy(tiny_model_path: Path) -> Policy:
    return sharp_policy(tiny_model_path)


@pytest.fixture(scope="module")
def folder(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the policy was saved to; read only."""
    return policy.save(tmp_path_factory.mktemp("save") / "exported")


class TestFreezing:
    def test_exactly_the_vision_tower_and_its_projector_are_frozen(self, policy: Policy) -> None:
        """In Qwen2.5-VL both are in `visual`: its merger is the projector."""
        frozen = {name for name, weight in policy.named_parameters() if not weight.requires_grad}
        assert frozen == {name for name, _ in policy.named_parameters() if name.startswith("model.model.visual.")}
        assert any(".merger." in name for name in frozen)
        assert {name.split(".")[2] for name, _ in policy.named_parameters()} == {"visual", "language_model"}

    def test_frozen_weights_get_no_gradient_and_the_others_all_do(self, policy: Policy) -> None:
        policy.token_logprobs(mixed_batch(policy, 2)).logprobs.sum().backward()
        has_gradient = {name for name, weight in policy.named_parameters() if weight.grad is not None}
        policy.zero_grad()
        assert has_gradient == {name for name, weight in policy.named_parameters() if weight.requires_grad}

    def test_nothing_is_frozen_unless_asked_for(self, tiny_model_path: Path) -> None:
        policy = sharp_policy(tiny_model_path, freeze_vision=False)
        assert all(weight.requires_grad for weight in policy.parameters())


@pytest.fixture(scope="module", params=["language model", "some layers", "vision tower too"])
def adapted(request: pytest.FixtureRequest, tiny_model_path: Path) -> Policy:
    """With adapters that have learned something."""
    lora, vision = {
        "language model": (LoRASettings(rank=4), False),
        "some layers": (LoRASettings(rank=4, alpha=8, target_modules=("q_proj", "down_proj")), False),
        "vision tower too": (LoRASettings(rank=4, vision=True), True),
    }[request.param]
    policy = sharp_policy(tiny_model_path, lora=lora, freeze_vision=not vision)
    for name, weight in policy.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return policy


class TestAdapters:
    def test_they_change_nothing_before_they_are_trained(self, policy: Policy, tiny_model_path: Path) -> None:
        adapted = sharp_policy(tiny_model_path, lora=LoRASettings(rank=4))
        batch = mixed_batch(policy, 2)
        assert torch.equal(adapted.token_logprobs(batch).logprobs, policy.token_logprobs(batch).logprobs)

    def test_they_alone_are_trained(self, adapted: Policy) -> None:
        lora = adapted.settings.lora
        assert lora is not None
        trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
        assert trained and all(".lora_" in name for name in trained)
        layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
        assert not lora.target_modules or layers == set(lora.target_modules)
        assert any(".visual." in name for name in trained) == lora.vision
        assert not any("lm_head" in name for name in trained)

    def test_saved_and_pushed_weights_have_them_merged(
        self, adapted: Policy, policy: Policy, folder: Path, tmp_path: Path
    ) -> None:
        """By the names of the plain model, and without touching the trained weights."""
        before = {name: weight.clone() for name, weight in adapted.named_parameters()}
        batch = mixed_batch(policy, 2)
        expected_NT = adapted.token_logprobs(batch).logprobs
        merged = Policy(PolicySettings(str(adapted.save(tmp_path / "merged"))))
        # Rounding of the sum of weights, which a sharp model magnifies.
        assert (merged.token_logprobs(batch).logprobs - expected_NT).abs().max() <= 1e-3
        assert (policy.token_logprobs(batch).logprobs - expected_NT).abs().max() > 0.1
        pushed = dict(adapted.named_weights())
        assert set(pushed) == {name for name, _ in policy.named_weights()}
        assert all(torch.equal(weight, pushed[name]) for name, weight in merged.named_weights())
        assert all(torch.equal(weight, before[name]) for name, weight in adapted.named_parameters())

    def test_beside_bfloat16_weights_they_are_float32(self, tiny_model_path: Path) -> None:
        policy = Policy(PolicySettings(str(tiny_model_path), dtype="bfloat16", lora=LoRASettings()))
        assert {weight.dtype for weight in policy.parameters() if weight.requires_grad} == {torch.float32}
        policy.token_logprobs(mixed_batch(policy, 2)).logprobs.sum().backward()

    def test_layers_that_do_not_exist_are_refused_with_those_that_do(self, tiny_model_path: Path) -> None:
        with pytest.raises(SpecsError, match=r"\['query'\] name no linear layer; there are: down_proj, .*q_proj"):
            Policy(PolicySettings(str(tiny_model_path), lora=LoRASettings(target_modules=("query",))))

    def test_a_frozen_vision_tower_is_not_adapted(self) -> None:
        with pytest.raises(ValueError, match="freeze_vision freezes it: choose one"):
            PolicySettings("m", lora=LoRASettings(vision=True))


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


class TestSource:
    @pytest.mark.parametrize("wrong", ["./missing", "runs/of/mine/missing"])
    def test_a_missing_folder_is_named(self, wrong: str) -> None:
        with pytest.raises(FileNotFoundError, match=rf"{wrong} is no model folder: nothing is there"):
            Policy(PolicySettings(wrong))

    def test_a_folder_without_a_model_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="is no model folder"):
            Policy(PolicySettings(str(tmp_path)))

    def test_a_path_from_the_home_folder_is_found(self, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tiny_model_path.parent))
        assert Policy(PolicySettings(f"~/{tiny_model_path.name}")).source == str(tiny_model_path)
