"""The batches of all processes as one, and what losses on gate values share."""

import torch
from mmengine import dist
from torch import Tensor, nn

from ..ops.checks import check_in


class GatherBatch(torch.autograd.Function):
    """The batches of all processes as one, ordered by rank, with the gradient of their average loss."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return torch.cat(dist.all_gather(values.contiguous()))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # Every process computes the same loss of the gathered values, hence the same gradient; it takes its own part
        # times the number of processes, by which DistributedDataParallel then divides.
        world_size = dist.get_world_size()
        return world_size * gradient.chunk(world_size)[dist.get_rank()]


class GateLoss(nn.Module):
    """What losses on gate values share: the regions of an image, or None for any, and a factor a schedule may move.

    A gate loss says by ``takes`` which of a backbone's statements it judges: ``'gate_values'`` (n, rows, cols) or
    ``'cost_ratio'`` (n,).
    """

    takes = 'gate_values'

    def __init__(self, grid_size: tuple[int, int] | None, weight: float) -> None:
        super().__init__()
        if grid_size is not None and (len(grid_size) != 2 or min(grid_size) < 1):
            raise ValueError(f'grid_size must be (rows, cols), both at least 1, got {grid_size}')
        check_in('[0, inf)', weight=weight)
        self.grid_size = grid_size and tuple(grid_size)
        self.weight = weight

    def global_batch(self, gate_values: Tensor) -> Tensor:
        """Gate values of all processes in float32 at least, (n, rows, cols) -> (world_size * n, L)."""
        rows, cols = self.grid_size or ('rows', 'cols')
        if gate_values.ndim != 3 or self.grid_size not in (None, gate_values.shape[1:]):
            raise ValueError(f'gate values must have shape (n, {rows}, {cols}), got {tuple(gate_values.shape)}')
        dtype = torch.promote_types(gate_values.dtype, torch.float32)
        return GatherBatch.apply(gate_values.to(dtype).flatten(1))
