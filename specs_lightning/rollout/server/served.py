"""What a rollout server does with a request, whatever brings it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from specs_lightning.rollout.engine import SamplingSettings
from specs_lightning.rollout.sampler import EngineError, VLLMSampler
from specs_lightning.rollout.server.batch import ContinuousBatch
from specs_lightning.rollout.wire import PROTOCOL, architecture, differences, request_from_json
from specs_lightning.system.addresses import is_same

Message = dict[str, Any]


class Refused(EngineError):
    """A request that is not served, with the status of the HTTP answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ServedSampler:
    """A sampler, the batch that it draws, and which weights it holds.

    Each of the workers, which share the model, is a member of a trainer's weight group; the sampler draws
    `max_sequences` completions at once. What is asked is awaited in an event loop; a cancelled answer is not drawn.
    """

    def __init__(
        self, sampler: VLLMSampler, batch: ContinuousBatch, model: str, workers: int = 1, max_sequences: int = 256
    ) -> None:
        from transformers import AutoConfig

        self.sampler, self.batch, self.model = sampler, batch, model
        self.workers, self.max_sequences = workers, max_sequences
        self.architecture = architecture(AutoConfig.from_pretrained(model, trust_remote_code=False))
        self.weights_id = ""

    def health(self) -> Message:
        return {
            "ready": True,
            "protocol": PROTOCOL,
            "model": self.model,
            "max_model_len": self.sampler.max_model_len,
            "max_sequences": self.max_sequences,
            "workers": self.workers,
            "backend": "gloo" if self.sampler.on_cpu else "nccl",
            "weights_id": self.weights_id,
            "version": self.sampler.version,
            "busy": self.batch.busy,
            "aborted": self.batch.aborted,
        }

    async def generate(self, message: Message) -> Message:
        with readable():
            request = await asyncio.to_thread(request_from_json, message["request"])
            sampling, stop_ids = SamplingSettings(**message["sampling"]), list(map(int, message["stop_ids"]))
            weights_id, version = message["weights_id"], message["version"]

        def check() -> None:
            held = self.sampler.version
            if (self.weights_id, held) != (weights_id, version):
                what = f"holds version {held}" if held >= 0 else "holds no weights"
                other = " of another training" if held >= 0 and self.weights_id != weights_id else ""
                raise Refused(409, f"it {what}{other}, where version {version} was asked for")

        drawn = await asyncio.wrap_future(self.batch.draw(request, sampling, stop_ids, check))
        return {"version": version, "completions": [completion.as_row() for completion in drawn]}

    async def load_folder(self, message: Message, may_read: FolderRule) -> Message:
        with readable():
            folder, weights_id, version = str(message["folder"]), message["weights_id"], int(message["version"])
            self._check_architecture(message["architecture"])
        path = may_read.check(folder)
        return await self._load(lambda: self.sampler.load_folder(str(path), version), weights_id)

    async def join(self, message: Message, caller: str) -> Message:
        """Meet the trainer, nowhere but at the address that it calls from."""
        with readable():
            place = str(message["host"]), int(message["port"]), message["backend"], float(message["timeout_s"])
            self._check_architecture(message["architecture"])
        if not is_same(place[0], caller):
            raise Refused(
                403,
                f"weights are taken from the machine that asks ({caller}), not from {place[0]}: connect the two "
                "directly, or have the weights travel by folder",
            )
        met = self.batch.alone(lambda: self.sampler.join_weight_group(*place, size=1 + self.workers))
        await asyncio.wrap_future(met)
        return {"workers": self.workers}

    async def receive(self, message: Message) -> Message:
        with readable():
            layout, weights_id, version = message["layout"], message["weights_id"], int(message["version"])
        return await self._load(lambda: self.sampler.receive_weights(layout, version), weights_id)

    async def _load(self, load: Callable[[], None], weights_id: str) -> Message:
        def load_and_note() -> Message:
            self.weights_id = ""  # until all of it is there
            load()
            self.weights_id = weights_id
            return {"weights_id": weights_id, "version": self.sampler.version}

        return await asyncio.wrap_future(self.batch.alone(load_and_note))

    def _check_architecture(self, policy: Message) -> None:
        if found := differences(policy, self.architecture):
            more = f", and {len(found) - 3} more" if len(found) > 3 else ""
            raise Refused(400, f"the policy is another model than {self.model}: its {'; its '.join(found[:3])}{more}")


class FolderRule:
    """Which folders weights are read from: those in `root`; without one, any if only this machine can ask (`local`)."""

    def __init__(self, root: Path | None, local: bool) -> None:
        self.root = root.resolve() if root else None
        self.local = local

    def check(self, folder: str) -> Path:
        """The resolved folder.

        Raises:
            Refused: it is out of bounds, or not there.
        """
        path = Path(folder).resolve()
        if self.root is None and not self.local:
            raise Refused(403, "weights are read from no folder: start the server with --weights_dir")
        if self.root is not None and not path.is_relative_to(self.root):
            raise Refused(403, f"{folder} is outside the server's weights_dir")
        if not path.is_dir():
            raise Refused(400, f"{folder} is not there: the folder must be on storage that both machines see")
        return path


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """What a request lacks, or has in another form, is its own fault."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(400, f"the request cannot be read: {type(error).__name__}: {error}") from error
