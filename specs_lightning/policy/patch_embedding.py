"""Patch embeddings as the matrix products that they are.

A vision tower cuts its image into patches by a convolution whose stride is its kernel, and Qwen's are handed patches
that are cut already: one output position each. As a convolution that is a slow case on a CPU, and for some versions of
cuDNN on a GPU.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import linear


def use_linear_patch_embedding(model: nn.Module) -> None:
    """Have convolutions over one patch each compute as linear layers; weights, names and results stay."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.stride == module.kernel_size and module.groups == 1:
            module.forward = partial(_embed, module)  # type: ignore[method-assign]


def _embed(convolution: nn.Conv3d, patches: Tensor) -> Tensor:
    """(patches, channels, *kernel) to (patches, out, 1, 1, 1); other shapes by the convolution itself."""
    if patches.shape[2:] != convolution.kernel_size:
        return nn.Conv3d.forward(convolution, patches)
    embedded = linear(patches.flatten(1), convolution.weight.flatten(1), convolution.bias)
    return embedded[..., None, None, None]
