"""Losses on gate values: what keeps a gate near the wanted coarse ratio without making it constant.

Each takes gate values (n, rows, cols) in [0, 1] and returns a dict of scalars named ``loss_gate_*``. In several
processes, each with the same n, the values of all are gathered with their gradient: the losses are those of the global
batch, and so are their gradients once DistributedDataParallel has averaged them.
"""

import logging
import math
from functools import partial

import torch
import torch.nn.functional as F
from mmengine import dist
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn

from msvit_mm.ops.gating import straight_through
from msvit_mm.ops.priors import GATE_CLIP, beta_cdf, cramer_von_mises, normal_cdf, relaxed_bernoulli_cdf
from msvit_mm.ops.regions import regions_with_boundary


class _GatherBatch(torch.autograd.Function):
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


class _GateLoss(nn.Module):
    """What the losses share: the regions of an image, or None for any, and a factor that a schedule may move."""

    def __init__(self, grid_size: tuple[int, int] | None, weight: float) -> None:
        super().__init__()
        if grid_size is not None and (len(grid_size) != 2 or min(grid_size) < 1):
            raise ValueError(f'grid_size must be (rows, cols), both at least 1, got {grid_size}')
        self.grid_size = grid_size and tuple(grid_size)
        self.weight = weight

    def global_batch(self, gate_values: Tensor) -> Tensor:
        """Gate values of all processes in float32 at least, (n, rows, cols) -> (world_size * n, L)."""
        rows, cols = self.grid_size or ('rows', 'cols')
        if gate_values.ndim != 3 or self.grid_size not in (None, gate_values.shape[1:]):
            raise ValueError(f'gate values must have shape (n, {rows}, {cols}), got {tuple(gate_values.shape)}')
        dtype = torch.promote_types(gate_values.dtype, torch.float32)
        return _GatherBatch.apply(gate_values.to(dtype).flatten(1))


@MODELS.register_module()
class BatchShapingLoss(_GateLoss):
    r"""Generalized Batch-Shaping: each position follows a learned prior, and the priors' means follow a hyperprior.

    .. math::
        L = w \Big(\frac{1}{L} \sum_l \mathrm{CvM}\big(m_{:, l}, F_{RB}(\cdot; \theta_l, \tau_l)\big)
        + \mathrm{CvM}(\theta, F_{hyper})\Big) + w_\tau \frac{1}{L} \sum_l \tau_l

    The means :math:`\theta` are learned through their logits and start at ``coarse_ratio``, the temperatures
    :math:`\tau` through their logarithms. Weight decay would pull them to 0.5 and 1: leave both out of it.

    Args:
        grid_size: Regions of an image as (rows, cols), one prior each.
        coarse_ratio: Wanted mean decision, open (0, 1).
        hyperprior: Distribution of the priors' means around ``coarse_ratio``, 'normal' or 'beta'.
        hyperprior_std: Its standard deviation > 0; for 'beta' below sqrt(coarse_ratio * (1 - coarse_ratio)).
        initial_temperature: Start of every :math:`\tau` > 0, unitless.
        temperature_weight: :math:`w_\tau`, factor of the mean temperature.
        weight: :math:`w`, factor of both distances. A schedule may move this attribute.

    Raises:
        ValueError: If an argument is out of its range.

    Source: MSViT, section 3 (arXiv 2307.02321).

    Example:
        >>> loss = BatchShapingLoss(grid_size=(2, 3), coarse_ratio=0.75)
        >>> sorted(loss(torch.rand(8, 2, 3)))
        ['loss_gate_hyper', 'loss_gate_prior', 'loss_gate_temperature']
    """

    def __init__(
        self,
        grid_size: tuple[int, int],
        coarse_ratio: float = 0.75,
        hyperprior: str = 'normal',
        hyperprior_std: float = 0.1,
        initial_temperature: float = 0.5,
        temperature_weight: float = 0.1,
        weight: float = 1.0,
    ) -> None:
        super().__init__(grid_size, weight)
        if not 0 < coarse_ratio < 1:
            raise ValueError(f'coarse_ratio must lie in the open interval (0, 1), got {coarse_ratio}')
        if not hyperprior_std > 0:
            raise ValueError(f'hyperprior_std must be positive, got {hyperprior_std}')
        if not initial_temperature > 0:
            raise ValueError(f'initial_temperature must be positive, got {initial_temperature}')
        if hyperprior == 'normal':
            self.hyperprior_cdf = partial(normal_cdf, mean=coarse_ratio, std=hyperprior_std)
        elif hyperprior == 'beta':
            a, b = _beta_from_moments(coarse_ratio, hyperprior_std)
            self.hyperprior_cdf = partial(beta_cdf, a=a, b=b)
        else:
            raise ValueError(f"hyperprior must be 'normal' or 'beta', got {hyperprior!r}")
        self.coarse_ratio = coarse_ratio
        self.temperature_weight = temperature_weight
        self.mean_logits = nn.Parameter(torch.full(self.grid_size, math.log(coarse_ratio / (1 - coarse_ratio))))
        self.log_temperatures = nn.Parameter(torch.full(self.grid_size, math.log(initial_temperature)))
        self._warned = False

    def forward(self, gate_values: Tensor) -> dict[str, Tensor]:
        """Compare the gate values with the priors, and the priors with the hyperprior.

        Args:
            gate_values: Relaxed decisions in [0, 1], shape (n, rows, cols).

        Returns:
            ``loss_gate_prior`` and ``loss_gate_hyper``, both times ``weight``, and ``loss_gate_temperature``.

        Raises:
            ValueError: If the gate values do not have shape (n, rows, cols) with this loss's rows and cols.
        """
        values = self.global_batch(gate_values)
        self._warn_of_small_batch(len(values))
        means = torch.sigmoid(self.mean_logits).flatten()  # (rows, cols) -> (L,)
        temperatures = self.log_temperatures.exp().flatten()
        prior_cdf = partial(relaxed_bernoulli_cdf, mean=means, temperature=temperatures)
        return {
            'loss_gate_prior': self.weight * cramer_von_mises(values, prior_cdf),
            'loss_gate_hyper': self.weight * cramer_von_mises(means[:, None], self.hyperprior_cdf),
            'loss_gate_temperature': self.temperature_weight * temperatures.mean(),
        }

    def _warn_of_small_batch(self, n: int) -> None:
        # Measured: with n + 1 <= 2 / (share of the rarer scale), batch-shaping alone collapses to the commoner scale.
        wanted = math.floor(2 / min(self.coarse_ratio, 1 - self.coarse_ratio) + 1e-9)
        if n >= wanted or self._warned:
            return
        self._warned = True
        print_log(
            f'BatchShapingLoss got the gate values of {n} images, but coarse_ratio {self.coarse_ratio} wants at least '
            f'{wanted}, or the gate may collapse to one scale. `GateCrops` adds crops that only the gate sees.',
            logger='current',
            level=logging.WARNING,
        )


@MODELS.register_module()
class BetaShapingLoss(_GateLoss):
    """Plain Batch-Shaping: the gate values of every position follow one fixed Beta prior.

    Args:
        a: First shape parameter > 0 of the prior, whose mean a / (a + b) is the coarse ratio.
        b: Second shape parameter > 0.
        weight: Factor of the distance. A schedule may move this attribute.
        grid_size: Regions of an image as (rows, cols) that gate values must have, or None for any.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Bejnordi et al., ICLR 2020; an ablation of MSViT.

    Example:
        >>> BetaShapingLoss(a=1.0, b=1.0)(torch.full((1, 2, 3), 0.75))
        {'loss_gate_prior': tensor(0.0625)}
    """

    def __init__(
        self, a: float = 0.6, b: float = 0.4, weight: float = 1.0, grid_size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(grid_size, weight)
        if not (a > 0 and b > 0):
            raise ValueError(f'a and b must be positive, got {a} and {b}')
        self.prior_cdf = partial(beta_cdf, a=a, b=b)

    def forward(self, gate_values: Tensor) -> dict[str, Tensor]:
        """Compare gate values (n, rows, cols) with the prior; ``loss_gate_prior`` is already times ``weight``."""
        values = self.global_batch(gate_values).clamp(GATE_CLIP, 1 - GATE_CLIP)
        return {'loss_gate_prior': self.weight * cramer_von_mises(values, self.prior_cdf)}


@MODELS.register_module()
class RatioLoss(_GateLoss):
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
        if not 0 <= coarse_ratio <= 1:
            raise ValueError(f'coarse_ratio must lie in [0, 1], got {coarse_ratio}')
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
        self.weight = weight
        self.ignore_index = ignore_index

    def forward(self, gate_logits: Tensor, labels: Tensor, coarse_patch_size: int) -> dict[str, Tensor]:
        """Compare gate logits (B, rows, cols) with label maps (B, H, W) of as many regions."""
        boundary = [regions_with_boundary(x, coarse_patch_size, self.ignore_index) for x in labels]
        coarse = 1 - torch.stack(boundary).to(gate_logits)
        return {'loss_gate_boundary': self.weight * F.binary_cross_entropy_with_logits(gate_logits, coarse)}


def _beta_from_moments(mean: float, std: float) -> tuple[float, float]:
    """Shape parameters of the beta distribution with this mean and standard deviation."""
    concentration = mean * (1 - mean) / std**2 - 1
    if not concentration > 0:
        raise ValueError(f'a beta hyperprior of mean {mean} needs a std below {(mean * (1 - mean)) ** 0.5}, got {std}')
    return mean * concentration, (1 - mean) * concentration
