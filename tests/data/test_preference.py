"""Pairs as training data: shuffled, resumable, and matched with what is cached of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import scene_pairs, small_trainer, write_pair_file
from lightning.pytorch import Callback

from specs_lightning.data import PreferenceDataModule
from specs_lightning.data.pairs import load_pairs
from specs_lightning.data.preference import PreferenceLoader
from specs_lightning.data.tables import DataError
from specs_lightning.modules import ColdStartModule
from specs_lightning.objectives import DPO, SFT, ColdStartObjective
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.policy.reference import sequence_logprobs
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.pairs import PreferencePair, write_pairs
from specs_lightning.rollout.engine import stop_ids


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_pair_file(tmp_path_factory.mktemp("pairs")))


class Seen(Callback):
    """The data set's rows of each batch."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append(batch.index_N.tolist())


def fit(
    tiny_model_path: Path, data: PreferenceDataModule, folder: Path, objective: ColdStartObjective, **trainer: Any
) -> tuple[ColdStartModule, list[list[int]]]:
    seen, module = Seen(), ColdStartModule(PolicySettings(str(tiny_model_path)), objective)
    small_trainer(folder, seen, **trainer).fit(module, datamodule=data)
    return module, seen.rows


def test_each_epoch_has_every_pair_once_in_another_order(tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
    def run(seed: int) -> list[list[int]]:
        data = PreferenceDataModule(pairs, batch_size=3, seed=seed)
        return fit(tiny_model_path, data, tmp_path, SFT(), max_epochs=2)[1]

    first = run(1)
    assert [len(rows) for rows in first] == [3, 3, 2] * 2
    epochs = [[row for rows in epoch for row in rows] for epoch in (first[:3], first[3:])]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert run(1) == first
    assert run(2) != first


@pytest.mark.parametrize(("objective", "sides"), [(DPO(), 2), (SFT(), 1)])
def test_supervised_training_takes_the_chosen_side_alone(
    tiny_model_path: Path, pairs: str, tmp_path: Path, objective: ColdStartObjective, sides: int
) -> None:
    data = PreferenceDataModule(pairs, batch_size=8)
    module, rows = fit(tiny_model_path, data, tmp_path, objective)
    batch = data.collate([2, 0])
    assert batch.group_sizes == [sides] * 2
    assert batch.index_N is not None and batch.index_N.tolist() == [2] * sides + [0] * sides
    texts = [
        data.encoder.decode(ids[:length])
        for ids, length in zip(batch.completion_ids_NT, batch.lengths_N.tolist(), strict=True)
    ]
    assert texts == [text for i in (2, 0) for text in (data.pairs[i].chosen, data.pairs[i].rejected)[:sides]]
    ends = batch.completion_ids_NT[torch.arange(len(batch)), batch.lengths_N - 1]
    assert (ends == module.policy.tokenizer.eos_token_id).all()
    assert [sorted(set(r)) for r in rows] == [list(range(8))]


def test_demonstrations_train_as_the_chosen_sides_of_pairs_do(
    tiny_model_path: Path, pairs: str, tmp_path: Path
) -> None:
    demonstrations = tmp_path / "demonstrations.parquet"
    write_pairs([replace(pair, rejected=None) for pair in load_pairs(pairs, SetAside())], demonstrations)
    weights = []
    for file in (pairs, str(demonstrations)):
        module, _ = fit(tiny_model_path, PreferenceDataModule(file, batch_size=4), tmp_path, SFT())
        weights.append(torch.cat([p.detach().flatten() for p in module.policy.parameters()]))
    assert torch.equal(*weights)


def test_a_completion_ends_as_the_models_template_ends_a_turn(
    tiny_model_path: Path, pairs: str, tmp_path: Path
) -> None:
    """Gemma's kind: the tokenizer's end token is another than the template's, at which sampling stops, too."""
    model = Path(shutil.copytree(tiny_model_path, tmp_path / "model"))
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(template.replace("<|im_end|>", "<|endoftext|>"))
    data = PreferenceDataModule(pairs, batch_size=8)
    module, _ = fit(model, data, tmp_path, DPO())
    ends = {(pair.chosen[-1], pair.rejected[-1]) for pair in data.encoded}
    end = module.policy.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert ends == {(end, end)} and end != module.policy.tokenizer.eos_token_id
    assert end in stop_ids(module.policy)


def test_a_batch_finds_its_own_rows_of_the_cached_reference(tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
    data = PreferenceDataModule(pairs, batch_size=3)
    module, _ = fit(tiny_model_path, data, tmp_path, DPO())
    cached_N = sequence_logprobs(module.policy, data.in_order(), 1000)
    module.reference_logprobs = cached_N.view(-1, 2)
    for indices in ([7, 1, 4], [0], [5, 6]):
        batch = module.prepare(data.collate(indices))
        expected_N = sequence_logprobs(module.policy, [data.collate(indices)], 1000)
        torch.testing.assert_close(batch.reference_logprobs_N, expected_N, atol=1e-4, rtol=1e-5)


def test_a_loader_resumes_at_its_place_in_any_epoch(tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
    data = PreferenceDataModule(pairs, batch_size=3)
    module, _ = fit(tiny_model_path, data, tmp_path, SFT())

    def rest(loader: PreferenceLoader, epochs: int) -> list[list[int]]:
        return [batch.index_N.tolist() for _ in range(epochs) for batch in loader]  # type: ignore[union-attr]

    whole = rest(PreferenceLoader(data), 3)
    assert len(whole) == 9
    for taken in range(9):
        loader = PreferenceLoader(data)
        module.steps = taken
        loader.load_state_dict(PreferenceLoader(data).state_dict())
        assert rest(loader, 3 - taken // 3) == whole[taken:]


class TestSetAside:
    def test_what_cannot_be_used_is_listed_with_its_place_and_never_cut(
        self, tiny_model_path: Path, tmp_path: Path
    ) -> None:
        pairs = scene_pairs(6)
        long = "<think>so</think><answer>" + "9 " * 300 + "</answer>"
        pairs[1] = PreferencePair(pairs[1].prompt, long, "Answer: 9")
        pairs[2] = PreferencePair(pairs[2].prompt, pairs[2].chosen, long)
        pairs[4] = PreferencePair(pairs[4].prompt, "<|im_end|> ends here", "Answer: 9")
        write_pairs(pairs, tmp_path / "pairs.parquet")
        data = PreferenceDataModule(str(tmp_path / "pairs.parquet"), batch_size=3, max_completion_tokens=250)
        _, rows = fit(tiny_model_path, data, tmp_path, DPO())
        assert sorted({row for batch in rows for row in batch}) == [0, 1, 2]
        assert len(rows) == 1
        written = [json.loads(line) for line in (tmp_path / "set_aside.jsonl").read_text().splitlines()]
        assert [(row["row"], row["reason"].partition(":")[0]) for row in written] == [
            (1, "completion longer than 250 tokens"),
            (2, "completion longer than 250 tokens"),
            (4, "special token in the text"),
        ]
        assert {row["source"] for row in written} == {str(tmp_path / "pairs.parquet")}

    def test_over_long_prompts_too(self, tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
        data = PreferenceDataModule(pairs, batch_size=4, max_prompt_tokens=75)
        fit(tiny_model_path, data, tmp_path, DPO())
        assert 0 < len(data.encoded) < 8
        assert len(data.set_aside.rows) == 8 - len(data.encoded)

    def test_where_nothing_is_left_the_error_says_why(self, tiny_model_path: Path, pairs: str, tmp_path: Path) -> None:
        data = PreferenceDataModule(pairs, max_completion_tokens=2)
        with pytest.raises(DataError, match=r"no pair can be used[\s\S]*8 x completion longer than 2 tokens"):
            fit(tiny_model_path, data, tmp_path, DPO())


def test_a_batch_size_out_of_range(pairs: str) -> None:
    with pytest.raises(ValueError, match="batch_size must be positive, not 0"):
        PreferenceDataModule(pairs, batch_size=0)


def test_rows_hold_the_tag_that_the_template_opens_once(thinking_model_path: Path, pairs: str, tmp_path: Path) -> None:
    data = PreferenceDataModule(pairs, batch_size=8)
    fit(thinking_model_path, data, tmp_path, DPO())
    for pair, encoded in zip(data.pairs, data.encoded, strict=True):
        for text, ids in ((pair.chosen, encoded.chosen), (pair.rejected, encoded.rejected)):
            row = data.encoder.decode([*encoded.prompt.input_ids.tolist(), *ids])
            assert row.endswith("assistant\n<think>\n" + text.removeprefix("<think>"))
    assert any(pair.chosen.startswith("<think>") for pair in data.pairs)
