"""Distance of a batch's mean from a target: of its coarse ratio, or of its cost."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.checks import check_in
from ..ops.gating import straight_through
from .gather import GateLoss, GatherBatch


@MODELS.register_module()
class RatioLoss(GateLoss):
    """Distance of the batch's coarse ratio from a target: no demand on single images or positions.

    Args:
        coarse_ratio: Wanted mean decision in [0, 1].
        norm: 'l0' for the absolute distance of the share of coarse decisions, which is what is executed, with the
            gradient of the gate values; 'l1' and 'l2' for the absolute and the squared distance of the mean gate value.
        weight: Factor of the distance. A schedule may move this attribute.
        grid_size: Regions of an image as (rows, cols) that gate values must have, or None for any.

    Raises:
        ValueError: If an argument is out of its range.

    Source: MSViT (arXiv 2307.02321), the ablation with an L0 target.

    Example:
        >>> RatioLoss(coarse_ratio=0.75)(torch.full((2, 3, 4), 0.5))
        {'loss_gate_ratio': tensor(0.2500)}
    """

    def __init__(
        self,
        coarse_ratio: float = 0.75,
        norm: str = 'l1',
        weight: float = 1.0,
        grid_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(grid_size, weight)
        check_in('[0, 1]', coarse_ratio=coarse_ratio)
        if norm not in ('l0', 'l1', 'l2'):
            raise ValueError(f"norm must be 'l0', 'l1' or 'l2', got {norm!r}")
        self.coarse_ratio = coarse_ratio
        self.norm = norm

    def forward(self, gate_values: Tensor) -> dict[str, Tensor]:
        """Compare gate values (n, rows, cols) with the target; ``loss_gate_ratio`` is times ``weight``."""
        values = self.global_batch(gate_values)
        excess = (straight_through(values) if self.norm == 'l0' else values).mean() - self.coarse_ratio
        return {'loss_gate_ratio': self.weight * (excess.square() if self.norm == 'l2' else excess.abs())}


@MODELS.register_module()
class BudgetLoss(nn.Module):
    """Squared distance of the mean cost of a batch from a budget: no demand on single images or tokens.

    Args:
        budget: Wanted multiply-adds relative to the dense network, > 0; the backbone checks that they can be met.
        weight: Factor of the distance. A schedule may move this attribute.

    Raises:
        ValueError: If the budget is not positive.

    Source: Li et al., "Learning Dynamic Routing for Semantic Segmentation", CVPR 2020.

    Example:
        >>> BudgetLoss(budget=0.5)(torch.tensor([0.5, 1.5]))
        {'loss_budget': tensor(0.2500)}
    """

    takes = 'cost_ratio'

    def __init__(self, budget: float, weight: float = 1.0) -> None:
        super().__init__()
        check_in('(0, inf)', budget=budget)
        check_in('[0, inf)', weight=weight)
        self.budget = budget
        self.weight = weight

    def forward(self, cost_ratios: Tensor) -> dict[str, Tensor]:
        """Compare costs relative to the dense network (n,) with the budget; ``loss_budget`` is times ``weight``."""
        excess = GatherBatch.apply(cost_ratios).mean() - self.budget
        return {'loss_budget': (self.weight * excess.square()).to(torch.get_default_dtype())}
