"""The hybrid cold-start loss, L = L_DPO + λ·L_SFT(chosen) (paper section 3.2).

L_DPO = −log σ(β·[log π/π_ref(chosen) − log π/π_ref(rejected)]), on log-probabilities summed over a completion.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from specs_lightning.objectives.preference import PreferenceObjective


@dataclass(frozen=True)
class DPO(PreferenceObjective):
    """Direct preference optimisation with a supervised term on the chosen side."""

    beta: float = 0.1
    """How strongly the policy is held to the reference."""

    def rewards(self, score_N: Tensor, lengths_N: Tensor) -> Tensor:
        return self.beta * score_N

    def losses(self, chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        return -F.logsigmoid(chosen_P - rejected_P)
