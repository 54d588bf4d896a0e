"""Supervision of a gate by label maps."""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.checks import check_in
from ..ops.tiling import regions_with_boundary


@MODELS.register_module()
class BoundaryGateLoss(nn.Module):
    """Supervise the gate by labels: a region that holds a class boundary should be fine, any other coarse.

    Binary cross-entropy of the gate logits, for those who have labels and few images. It knows no target ratio: a gate
    loss beside it, or ``tools/calibrate_gate.py`` after training, sees to that.

    Args:
        weight: Factor of the cross-entropy.
        ignore_index: Label of pixels that count for nothing.

    Example:
        >>> logits, labels = torch.zeros(2, 2, 3), torch.zeros(2, 32, 48, dtype=torch.long)
        >>> BoundaryGateLoss()(logits, labels, coarse_patch_size=16)
        {'loss_gate_boundary': tensor(0.6931)}
    """

    def __init__(self, weight: float = 1.0, ignore_index: int = 255) -> None:
        super().__init__()
        check_in('[0, inf)', weight=weight)
        self.weight = weight
        self.ignore_index = ignore_index

    def forward(self, gate_logits: Tensor, labels: Tensor, coarse_patch_size: int) -> dict[str, Tensor]:
        """Compare gate logits (B, rows, cols) with label maps (B, H, W) of as many regions."""
        boundary = [regions_with_boundary(x, coarse_patch_size, self.ignore_index) for x in labels]
        coarse = 1 - torch.stack(boundary).to(gate_logits)
        return {'loss_gate_boundary': self.weight * F.binary_cross_entropy_with_logits(gate_logits, coarse)}
