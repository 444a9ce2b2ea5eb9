"""Fully sharded data parallelism (FSDP2, torch's `fully_shard`): every process holds a part of each weight.

A block of the model is gathered when it runs and freed after it. The frozen copy that some objectives compare with is
sharded likewise. Lightning's own `FSDPStrategy` (FSDP1) cannot do manual optimization.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import transformers
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from specs_lightning.errors import SpecsError
from specs_lightning.modules.checkpoint_files import SHARDED_STATE, CheckpointError, saving
from specs_lightning.modules.sharded_files import ShardPlanner, ShardReader
from specs_lightning.policy.loading import DTYPES, PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.system.ranks import failing_together, gather

Dtype = Literal["float32", "bfloat16"]


class FSDP2(ModelParallelStrategy):
    """Divides weights, gradients and optimizer states among processes.

    Args:
        replicas: how many whole copies of the model there are, each divided among its part of the processes (HSDP).
            With one for each node, weights travel within nodes, and between nodes only gradients.
        reshard_after_forward: free a block after its forward pass and gather it again for the backward pass. `false`
            takes more memory and less communication.
        param_dtype: in which blocks are gathered and computed; if not given, bfloat16 where `trainer.precision` is
            bf16-mixed, otherwise as they are kept.
        reduce_dtype: in which gradients are summed up.
        cpu_offload: keep weights, gradients and optimizer states in the CPU's memory.
        timeout_minutes: how long processes wait for each other, sampling included.
    """

    def __init__(
        self,
        replicas: int = 1,
        reshard_after_forward: bool = True,
        param_dtype: Dtype | None = None,
        reduce_dtype: Dtype = "float32",
        cpu_offload: bool = False,
        timeout_minutes: float = 60.0,
    ) -> None:
        # Gradients and optimizer states on the CPU are summed up by gloo.
        backend = "cpu:gloo,cuda:nccl" if cpu_offload and torch.cuda.is_available() else None
        super().__init__(process_group_backend=backend, timeout=timedelta(minutes=timeout_minutes))
        if replicas < 1:
            raise ValueError(f"replicas must be positive, not {replicas}")
        self.replicas, self.cpu_offload = replicas, cpu_offload
        self.reshard_after_forward = reshard_after_forward
        self.param_dtype, self.reduce_dtype = param_dtype, reduce_dtype

    def setup_environment(self) -> None:
        # Lightning's own mesh: all processes divide the data, and no tensor is divided along with it.
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()
        per_replica, rest = divmod(self.world_size, self.replicas)
        if rest:
            raise SpecsError(f"{self.world_size} processes cannot be divided among {self.replicas} replicas")
        shape = self.replicas, per_replica
        mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicas", "shards"))
        self.mesh = mesh if self.replicas > 1 else mesh["shards"]
        assert self.lightning_module is not None
        self.lightning_module.load_policy = self.load_policy  # type: ignore[assignment]

    def load_policy(self, settings: PolicySettings) -> Policy:
        """A policy in shards. The first process reads it, into the CPU's memory; block by block it goes to all."""
        if settings.quantization is not None:
            raise SpecsError("fsdp2 cannot divide quantized weights: leave quantization out, or train on one device")
        with failing_together():
            policy = Policy(settings, weights=self.global_rank == 0)
        self._check_same_layout(policy)
        places = _places(policy)
        for module in [*blocks(policy.model), policy]:
            for parameter in dict.fromkeys(module.parameters()):
                if held := places.pop(parameter, None):
                    weight = nn.Parameter(self._from_first_process(parameter.detach()), parameter.requires_grad)
                    for holder, name in held:
                        setattr(holder, name, weight)
            # The head is used after the forward pass, for one chunk of tokens after the other: it stays gathered.
            free_after_forward = self.reshard_after_forward and module is not policy
            fully_shard(module, reshard_after_forward=free_after_forward, **self._sharding())
        for module in policy.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = self._from_first_process(buffer)
        register_fsdp_forward_method(policy, "hidden_states")
        policy.reshard_after_forward = self.reshard_after_forward
        policy.gathered_dtype = self.computing_dtype(self.precision_plugin.precision)
        return policy

    def computing_dtype(self, precision: object) -> torch.dtype | None:
        """In which blocks are gathered and computed, given the trainer's precision; `None` is as they are kept."""
        name = self.param_dtype or ("bfloat16" if precision == "bf16-mixed" else None)
        return None if name is None else DTYPES[name]

    def _sharding(self) -> dict[str, Any]:
        precision = MixedPrecisionPolicy(
            param_dtype=self.computing_dtype(self.precision_plugin.precision), reduce_dtype=DTYPES[self.reduce_dtype]
        )
        return {
            "mesh": self.mesh,
            "mp_policy": precision,
            "offload_policy": CPUOffloadPolicy(torch.cuda.is_available()) if self.cpu_offload else OffloadPolicy(),
        }

    def _check_same_layout(self, policy: Policy) -> None:
        tensors = [*policy.named_parameters(), *policy.named_buffers()]
        layouts = gather([(name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors])
        for layout in layouts[1:]:
            for first, other in zip_longest(layouts[0], layout):
                if first != other:
                    raise SpecsError(f"{policy.source}: its weights are {first}, its configuration says {other}")

    def _from_first_process(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            here = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.root_device)
        else:
            here = tensor.to(self.root_device).contiguous()
        if self.world_size > 1:
            dist.broadcast(here, src=0)
        return here

    def model_to_device(self) -> None:
        # Weights are where they belong.
        assert self.model is not None
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(self.root_device)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The shards of the weights that are trained; the others are where the model came from. Tied ones come once."""
        assert self.model is not None
        state = get_model_state_dict(self.model, options=StateDictOptions(cpu_offload=True, ignore_frozen_params=True))
        return {name: state[name] for name in self._trained()}

    def _trained(self) -> list[str]:
        assert self.model is not None
        return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Path | str, storage_options: Any | None = None
    ) -> None:
        """Write a folder of shards, which appears whole or not at all."""
        path = Path(self.broadcast(filepath))
        with ExitStack() as stack:
            with failing_together():  # and none goes on before what a killed process left there is gone
                partial = stack.enter_context(saving(path, first=self.is_global_zero))
            super().save_checkpoint(checkpoint, partial, storage_options)

    def load_checkpoint(self, checkpoint_path: Path | str, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a folder of shards, written by any number of processes, or the single file of another strategy.

        Nothing in it is run, whatever the trainer was told.
        """
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            self._load_shards(path)
            loaded: dict[str, Any] = torch.load(path / SHARDED_STATE, weights_only=True)
            return loaded
        checkpoint: dict[str, Any] = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
        self._load_whole(checkpoint)
        return checkpoint

    def _load_shards(self, path: Path) -> None:
        assert self.model is not None
        weights = {"state_dict": self.lightning_module_state_dict()}
        _load(weights, path)
        set_model_state_dict(self.model, weights["state_dict"], options=StateDictOptions(strict=False))
        for number, optimizer in enumerate(self.optimizers):
            states: dict[str, Any] = {f"optimizer_{number}": get_optimizer_state_dict(self.model, optimizer)}
            _load(states, path)
            set_optimizer_state_dict(self.model, optimizer, states[f"optimizer_{number}"])

    def _load_whole(self, checkpoint: Mapping[str, Any]) -> None:
        assert self.model is not None
        names, weights = self._trained(), dict(checkpoint["state_dict"])
        if missing := set(names) - set(weights):
            raise CheckpointError(f"the checkpoint lacks {len(missing)} weights that are trained: {min(missing)}, …")
        whole = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(self.model, weights, options=whole)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            states = {names[number]: values for number, values in state["state"].items()}
            groups = [{**group, "params": [names[n] for n in group["params"]]} for group in state["param_groups"]]
            by_name: dict[str, Any] = {"state": states, "param_groups": groups}
            set_optimizer_state_dict(self.model, optimizer, by_name, options=whole)


def _load(states: dict[str, Any], folder: Path) -> None:
    """Fill in this process's part of what was saved."""
    distributed_checkpoint.load(states, storage_reader=ShardReader(folder), planner=ShardPlanner())


def blocks(model: transformers.PreTrainedModel) -> list[nn.Module]:
    """What is gathered at a time: the layers of the language model and of the vision tower."""
    names = set(model._no_split_modules or ())
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():  # an outer one comes before what is inside it
        is_block = isinstance(module, transformers.GradientCheckpointingLayer) or type(module).__name__ in names
        if is_block and module not in inside:
            found.append(module)
            inside.update(module.modules())
    return found


def _places(policy: Policy) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """Where each parameter stands: tied ones in several places."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in policy.modules():
        for name, parameter in module.named_parameters(recurse=False):
            places.setdefault(parameter, []).append((module, name))
    return places
