"""`specs export`: a checkpoint as a Hugging Face folder, and that folder to the hub."""

from __future__ import annotations

from pathlib import Path

from httpx import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from specs_lightning.commands.endings import scored_by
from specs_lightning.errors import SpecsError
from specs_lightning.modules.checkpoint_files import FOLDER, by_step, find
from specs_lightning.modules.checkpoint_policy import policy_of_checkpoint, read_policy
from specs_lightning.policy.model_files import adapter_beside
from specs_lightning.records.model_card import model_card
from specs_lightning.records.results import RESULTS
from specs_lightning.records.run import STAGE
from specs_lightning.system.files import check_writable
from specs_lightning.system.terminal import pasted, say


def export(
    checkpoint: str,
    output: str | None = None,
    model: str | None = None,
    push_to_hub: str | None = None,
    private: bool = True,
) -> Path:
    """Write the policy of a checkpoint as a Hugging Face folder, with a model card.

    Args:
        checkpoint: a file, a folder of shards, or the folder of a training, for its newest one. Adapters are merged
            into their model, and also written alone, as PEFT has them, to a folder beside it (`-adapter`).
        output: the folder to write; `model-NAME` beside `checkpoints/` if not given, NAME being the checkpoint's.
        model: where the model is now that it was trained from, if not in its place any more.
        push_to_hub: also upload the folder to this repository of the hub (`you/name`), with the token of `hf auth
            login` or of the environment's HF_TOKEN.
        private: of a repository that is made for it.

    Returns:
        the folder.

    Raises:
        CheckpointError: the checkpoint cannot be used, or the model that it was trained from is not there.
        SpecsError: the folder holds something already, or the hub refuses it.
    """
    file, state = find(checkpoint, Path())
    training = _training_of(file)
    folder = Path(output) if output is not None else training / f"model-{file.stem}"
    for place in (folder, adapter_beside(folder)):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise SpecsError(f"{place} is there already: give another --output, or delete it")
    check_writable(folder.parent)  # before the model is read
    settings = state.get("settings", {})
    policy = read_policy(file, policy_of_checkpoint(file, state, None, model))
    policy.save(folder, model_card(training, settings, file, _run_of(file, training)))
    policy.save_adapter(adapter_beside(folder))
    say(scored_by(folder))
    if push_to_hub is not None:
        push(folder, push_to_hub, private)
    return folder


def push(folder: Path, repository: str, private: bool) -> None:
    """Upload a model's folder to the hub.

    Raises:
        SpecsError: the hub cannot be reached or refuses it.
    """
    hub = HfApi()
    try:
        place = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(folder_path=folder, repo_id=place.repo_id, commit_message="specs export")
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, HTTPError, OSError) as error:
        raise SpecsError(
            f"the hub did not take {repository}: {' '.join(str(error).split())}. The model is in {folder}: see to it "
            f"that the name is one of yours and that you are logged in (hf auth login), and upload it by "
            f"{pasted('hf', 'upload', repository, folder)}"
        ) from error
    say(f"on the hub: {place}")


def _training_of(file: Path) -> Path:
    """The folder of the training that wrote a checkpoint."""
    return file.parent.parent if file.parent.name == FOLDER else file.parent


def _run_of(file: Path, training: Path) -> Path | None:
    """The run whose results are those of a checkpoint: of a finished stage's end, and no older."""
    run, stage = training.absolute().parent, STAGE.read(training)
    results = run / RESULTS.name
    if stage is None or stage.status != "finished" or not results.exists() or by_step(file.parent)[:1] != [file]:
        return None
    return run if results.stat().st_mtime >= file.stat().st_mtime else None
