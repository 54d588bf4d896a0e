"""Batch-Shaping: gate values that follow a distribution, so that a gate nears a ratio without becoming constant."""

import logging
import math
from functools import partial

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.checks import check_in
from ..ops.priors import GATE_CLIP, beta_cdf, cramer_von_mises, normal_cdf, relaxed_bernoulli_cdf, resample_prior
from .gather import GateLoss


@MODELS.register_module()
class BatchShapingLoss(GateLoss):
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
        check_in('(0, 1)', coarse_ratio=coarse_ratio)
        check_in('(0, inf)', hyperprior_std=hyperprior_std, initial_temperature=initial_temperature)
        check_in('[0, inf)', temperature_weight=temperature_weight)
        if hyperprior == 'normal':
            self.hyperprior_cdf = partial(normal_cdf, mean=coarse_ratio, std=hyperprior_std)
        elif hyperprior == 'beta':
            a, b = _beta_from_moments(coarse_ratio, hyperprior_std)
            self.hyperprior_cdf = partial(beta_cdf, a=a, b=b)
        else:
            raise ValueError(f"hyperprior must be 'normal' or 'beta', got {hyperprior!r}")
        self.coarse_ratio = coarse_ratio
        self.temperature_weight = temperature_weight
        self.mean_logits = nn.Parameter(torch.full(tuple(grid_size), math.log(coarse_ratio / (1 - coarse_ratio))))
        self.log_temperatures = nn.Parameter(torch.full(tuple(grid_size), math.log(initial_temperature)))
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

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: object) -> None:
        """Bring priors of another image size to the grid of this one, and load them."""
        for name in ('mean_logits', 'log_temperatures'):
            values = state_dict.get(f'{prefix}{name}')
            if isinstance(values, Tensor) and values.ndim == 2:
                rows, cols = self.mean_logits.shape
                resampled = resample_prior(values, (rows, cols), as_probability=name == 'mean_logits')
                state_dict[f'{prefix}{name}'] = resampled
        super()._load_from_state_dict(state_dict, prefix, *others)

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
class BetaShapingLoss(GateLoss):
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
        check_in('(0, inf)', a=a, b=b)
        self.prior_cdf = partial(beta_cdf, a=a, b=b)

    def forward(self, gate_values: Tensor) -> dict[str, Tensor]:
        """Compare gate values (n, rows, cols) with the prior; ``loss_gate_prior`` is already times ``weight``."""
        values = self.global_batch(gate_values).clamp(GATE_CLIP, 1 - GATE_CLIP)
        return {'loss_gate_prior': self.weight * cramer_von_mises(values, self.prior_cdf)}


def _beta_from_moments(mean: float, std: float) -> tuple[float, float]:
    """Shape parameters of the beta distribution with this mean and standard deviation."""
    concentration = mean * (1 - mean) / std**2 - 1
    if not concentration > 0:
        raise ValueError(f'a beta hyperprior of mean {mean} needs a std below {(mean * (1 - mean)) ** 0.5}, got {std}')
    return mean * concentration, (1 - mean) * concentration
