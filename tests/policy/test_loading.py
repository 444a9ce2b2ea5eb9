"""Which weights are trained: all but the vision tower's, or adapters alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_policies import mixed_batch, plain_logprobs, sharp_policy
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from specs_lightning.errors import SpecsError
from specs_lightning.policy.loading import LoRASettings, PolicySettings, model_class
from specs_lightning.policy.policy import Policy
from specs_lightning.settings.hints import HintingParser


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


@pytest.fixture(scope="module", params=["language model", "some layers", "vision tower too", "DoRA", "rsLoRA"])
def adapted(request: pytest.FixtureRequest, tiny_model_path: Path) -> Policy:
    """With adapters that have learned something."""
    lora, vision = {
        "language model": (LoRASettings(rank=4), False),
        "some layers": (LoRASettings(rank=4, alpha=8, target_modules=("q_proj", "down_proj")), False),
        "vision tower too": (LoRASettings(rank=4, vision=True), True),
        "DoRA": (LoRASettings(rank=4, dora=True, vision=True), True),
        "rsLoRA": (LoRASettings(rank=4, rslora=True), False),
    }[request.param]
    policy = sharp_policy(tiny_model_path, lora=lora, freeze_vision=not vision)
    generator = torch.Generator().manual_seed(0)
    for name, weight in policy.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.1, generator=generator)
        elif ".lora_magnitude_vector." in name:
            weight.data *= 6 * (1 + 0.2 * torch.rand(weight.shape, generator=generator))  # the other weights are, too
    return policy


class TestAdapters:
    @pytest.mark.parametrize("kind", [{"dora": True}, {"rslora": True}])
    def test_of_other_kinds_they_change_nothing_either(self, kind: dict[str, bool], tiny_model_path: Path) -> None:
        plain = Policy(PolicySettings(str(tiny_model_path)))
        adapted = Policy(PolicySettings(str(tiny_model_path), lora=LoRASettings(rank=4, **kind)))
        batch = mixed_batch(plain, 2)
        found_NT, expected_NT = adapted.token_logprobs(batch).logprobs, plain.token_logprobs(batch).logprobs
        assert (found_NT - expected_NT).abs().max() <= 1e-5
        with adapted.adapters_off():
            assert torch.equal(adapted.token_logprobs(batch).logprobs, expected_NT)

    def test_the_scale_is_that_of_their_kind(self, tiny_model_path: Path) -> None:
        """alpha / rank, and alpha / sqrt(rank) of rsLoRA."""
        for rslora, scale in ((False, 2.0), (True, 4.0)):
            settings = LoRASettings(rank=4, alpha=8, rslora=rslora)
            layers = Policy(PolicySettings(str(tiny_model_path), lora=settings))._adapted_layers().values()
            assert {layer.scaling["default"] for layer in layers} == {scale}

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

    def test_peft_puts_the_exported_adapters_beside_the_plain_model(self, adapted: Policy, tmp_path: Path) -> None:
        """Beside the one that they were trained beside, which is sharper than its files."""
        batch = mixed_batch(adapted, 2)
        base = model_class(adapted.model.config).from_pretrained(adapted.source, attn_implementation="sdpa")
        weights = {name.replace(".base_layer.", "."): weight for name, weight in adapted.model.named_parameters()}
        left_out = base.load_state_dict({n: w for n, w in weights.items() if ".lora_" not in n}, strict=False)
        assert not left_out.unexpected_keys and set(left_out.missing_keys) <= {"lm_head.weight"}
        folder = adapted.save_adapter(tmp_path / "model-adapter")
        assert folder is not None
        written = json.loads((folder / "adapter_config.json").read_text())
        assert (written["peft_type"], written["base_model_name_or_path"]) == ("LORA", adapted.source)
        beside = Policy(PolicySettings(adapted.source))
        found = PeftModel.from_pretrained(base, folder).eval()
        beside.model = found
        with torch.no_grad():
            found_NT, expected_NT = plain_logprobs(beside, batch), plain_logprobs(adapted, batch)
        with found.disable_adapter(), torch.no_grad():
            without_NT = plain_logprobs(beside, batch)
        # What is left is rounding, which a sharp model magnifies most where it goes through the vision tower, too.
        assert (found_NT - expected_NT).abs().max() <= 0.01
        assert (without_NT - expected_NT).abs().max() > 1

    def test_without_adapters_there_is_no_such_folder(self, policy: Policy, tmp_path: Path) -> None:
        assert policy.save_adapter(tmp_path / "model-adapter") is None
        assert not (tmp_path / "model-adapter").exists()

    @pytest.mark.parametrize("kind", [{}, {"dora": True}])
    def test_beside_bfloat16_weights_they_are_float32(self, tiny_model_path: Path, kind: dict[str, bool]) -> None:
        policy = Policy(PolicySettings(str(tiny_model_path), dtype="bfloat16", lora=LoRASettings(**kind)))
        assert {weight.dtype for weight in policy.parameters() if weight.requires_grad} == {torch.float32}
        policy.token_logprobs(mixed_batch(policy, 2)).logprobs.sum().backward()

    def test_layers_that_do_not_exist_are_refused_with_those_that_do(self, tiny_model_path: Path) -> None:
        with pytest.raises(SpecsError, match=r"\['query'\] name no linear layer; there are: down_proj, .*q_proj"):
            Policy(PolicySettings(str(tiny_model_path), lora=LoRASettings(target_modules=("query",))))

    @pytest.mark.parametrize(
        ("settings", "adapted"),
        [
            ({"target_modules": ("q_proj",)}, ["q_proj"]),
            ({"target_modules": ("self_attn.q_proj", "proj")}, ["q_proj"]),  # an end, from dot to dot
            ({"target_modules": r".*layers\.0\..*\.[qk]_proj"}, ["k_proj", "q_proj"]),
            ({"target_modules": r".*_proj", "exclude_modules": ("mlp.up_proj", "v_proj")}, "down gate k o q"),
            ({"target_modules": "all-linear", "exclude_modules": r".*mlp.*"}, "k o q v"),
        ],
    )
    def test_layers_are_named_as_peft_names_them(
        self, tiny_model_path: Path, settings: dict[str, Any], adapted: list[str] | str
    ) -> None:
        """The same layers as PEFT itself takes for the same words, of the language model."""
        expected = adapted if isinstance(adapted, list) else [f"{name}_proj" for name in adapted.split()]
        policy = Policy(PolicySettings(str(tiny_model_path), lora=LoRASettings(rank=2, **settings)))
        ours = set(policy._adapted_layers())
        assert sorted({name.rpartition(".")[2] for name in ours}) == expected
        plain = Policy(PolicySettings(str(tiny_model_path))).model
        inject_adapter_in_model(LoraConfig(r=2, **settings), plain)
        theirs = {name for name, module in plain.named_modules() if isinstance(module, LoraLayer)}
        assert ours == {name for name in theirs if ".visual." not in name}

    @pytest.mark.parametrize("named", ["['q_proj', 'v_proj']", ".*q_proj"])
    def test_settings_give_a_list_or_a_pattern(self, named: str) -> None:
        parser = HintingParser(exit_on_error=False)
        parser.add_class_arguments(LoRASettings, "lora")
        lora = parser.instantiate(parser.parse_args([f"--lora.target_modules={named}"])).lora
        assert lora.target_modules == (("q_proj", "v_proj") if named.startswith("[") else named)

    def test_patterns_that_fit_no_layer_or_are_none_are_refused(self, tiny_model_path: Path) -> None:
        with pytest.raises(SpecsError, match=r"'q_proj' name no linear layer; .* a pattern of a whole name, such as m"):
            Policy(PolicySettings(str(tiny_model_path), lora=LoRASettings(target_modules="q_proj")))
        with pytest.raises(ValueError, match=r"'\*_proj' is no regular expression"):
            LoRASettings(target_modules="*_proj")

    def test_a_frozen_vision_tower_is_not_adapted(self) -> None:
        with pytest.raises(ValueError, match="freeze_vision freezes it: choose one"):
            PolicySettings("m", lora=LoRASettings(vision=True))
