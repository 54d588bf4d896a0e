"""Supervision of a gate by what a scale is worth: the loss of a region's pixels at either scale."""

import torch
import torch.nn.functional as F
from mmengine import dist
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.checks import check_in


@MODELS.register_module()
class UtilityGateLoss(nn.Module):
    r"""A region should be coarse where being fine would win less than elsewhere.

    With the task's loss per region as predicted, :math:`CE`, and with the scale of the drawn regions swapped,
    :math:`CE'`, the utility of being fine is :math:`u_j = (2 d_j - 1)(CE_j - CE'_j)`, with :math:`d` = 1 for
    coarse. The regions below the quantile of the wanted coarse ratio should be coarse:

    .. math:: L = w \, \mathrm{mean}_j \; w_j \, \mathrm{BCE}(g_j, [u_j < \lambda]), \qquad
        w_j = \mathrm{clip}(|u_j - \lambda| / \mathrm{mean}|u - \lambda|, 0.1, 5)

    :math:`\lambda` is a moving mean of the quantile over the global batch.

    Args:
        coarse_ratio: Wanted share of coarse regions, in (0, 1): the quantile.
        weight: :math:`w`. A schedule may move this attribute.
        momentum: Of the moving mean.
        every: Steps from one call to the next: with a heavy head a forward pass of it each time is dear.

    Raises:
        ValueError: If an argument is out of its range.
    """

    quantile: Tensor
    calls: Tensor
    steps: Tensor

    def __init__(self, coarse_ratio: float = 0.75, weight: float = 1.0, momentum: float = 0.98, every: int = 1) -> None:
        super().__init__()
        check_in('(0, 1)', coarse_ratio=coarse_ratio)
        check_in('[0, inf)', weight=weight)
        check_in('[0, 1)', momentum=momentum)
        check_in('[1, inf)', every=every)
        self.coarse_ratio = coarse_ratio
        self.weight = weight
        self.momentum = momentum
        self.every = every
        self.register_buffer('quantile', torch.zeros(()))
        self.register_buffer('calls', torch.zeros((), dtype=torch.long))
        self.register_buffer('steps', torch.zeros((), dtype=torch.long))

    def forward(self, gate_logits: Tensor, utilities: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """Compare logits with utilities.

        Args:
            gate_logits: Shape (B, rows, cols).
            utilities: What being fine wins, same shape, without gradient.
            drawn: Boolean: where a utility is known, same shape.
        """
        drawn = drawn & utilities.isfinite()  # the scaler of mixed precision skips such a step, the quantile would not
        utilities, logits = utilities[drawn].float(), gate_logits[drawn].float()
        quantile = self._update(utilities)
        if not len(utilities):  # of a smaller scale no node may be reached
            return {'loss_gate_utility': 0 * gate_logits.sum()}
        distance = (utilities - quantile).abs()
        weights = (distance / distance.mean().clamp(min=1e-12)).clamp(0.1, 5)
        targets = (utilities < quantile).to(logits)
        loss = F.binary_cross_entropy_with_logits(logits, targets, weights)
        return {'loss_gate_utility': self.weight * loss}

    def is_due(self) -> bool:
        """Whether this step is one of every so many; call it once in a step."""
        self.steps += 1
        return int(self.steps - 1) % self.every == 0

    @torch.no_grad()
    def _update(self, utilities: Tensor) -> Tensor:
        """The moving quantile, of the batches of all processes."""
        own = dist.all_gather_object(utilities.cpu()) if dist.get_world_size() > 1 else [utilities.cpu()]
        utilities = torch.cat(own)
        if not len(utilities):
            return self.quantile
        quantile = torch.quantile(utilities, self.coarse_ratio).to(self.quantile)
        if self.calls > 0:
            quantile = self.momentum * self.quantile + (1 - self.momentum) * quantile
        self.quantile.copy_(quantile)
        self.calls += 1
        return self.quantile


def region_means(values: Tensor, counted: Tensor, region_size: int) -> Tensor:
    """Mean of pixel values over each region, of the pixels that count, 0 where none does.

    Args:
        values: Shape (B, H, W).
        counted: Boolean, same shape.

    Returns:
        Shape (B, rows, cols).
    """
    weights = counted.to(values)[:, None]
    sums, counts = (
        F.avg_pool2d(x, region_size, ceil_mode=True, count_include_pad=False, divisor_override=1)
        for x in (values[:, None] * weights, weights)
    )
    return (sums / counts.clamp(min=1)).squeeze(1)
