"""Prior distributions of gate values, and the distance between them and a sample."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import logsigmoid

GATE_CLIP = 1e-3


def resample_prior(values: Tensor, grid: tuple[int, int], as_probability: bool) -> Tensor:
    """Resample priors, one per region, to another grid of regions, bilinearly.

    Args:
        values: Logits of means, or logarithms of temperatures, shape (rows, cols).
        grid: The new (rows, cols).
        as_probability: Average probabilities instead of their logits: a prior's mean is the share of images in which
            its region is coarse, and the share of a larger region is the mean of its parts' shares.

    Example:
        >>> resample_prior(torch.tensor([[-2.0, 2.0]]), (1, 1), as_probability=True).abs() < 1e-6
        tensor([[True]])
    """
    if values.shape == tuple(grid):
        return values.clone()
    exact = values.double().sigmoid() if as_probability else values.double()
    resampled = F.interpolate(exact[None, None], size=tuple(grid), mode='bilinear', antialias=True)[0, 0]
    return (resampled.logit(eps=1e-9) if as_probability else resampled).to(values.dtype)


def relaxed_bernoulli_cdf(x: Tensor, mean: Tensor, temperature: Tensor) -> Tensor:
    r"""Cumulative distribution of a relaxed gate value.

    .. math:: F(x) = \sigma(\tau \, \mathrm{logit}(x) - \mathrm{logit}(\theta))

    Args:
        x: Gate values, clipped to [1e-3, 1 - 1e-3], shape (n, L).
        mean: Probability of "coarse" :math:`\theta`, open (0, 1), shape (L,).
        temperature: :math:`\tau` > 0, unitless, shape (L,); the relaxation hardens as it falls.

    Returns:
        Probabilities in (0, 1), shape (n, L).

    Raises:
        ValueError: If a temperature is not positive. Tensors are checked on the CPU only.

    Source: Maddison et al., ICLR 2017 (binary Concrete); MSViT, section 3.

    Example:
        >>> relaxed_bernoulli_cdf(torch.full((2, 1), 0.5), torch.tensor([0.5]), torch.tensor([0.7]))
        tensor([[0.5000],
                [0.5000]])
    """
    _check_positive('temperature', temperature)
    x = x.clamp(GATE_CLIP, 1 - GATE_CLIP)
    return torch.sigmoid(temperature * torch.logit(x) - torch.logit(mean))


def normal_cdf(x: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    r"""Cumulative distribution of a normal variable.

    .. math:: F(x) = \tfrac{1}{2} \big(1 + \mathrm{erf}\big((x - \mu) / (\sqrt{2} \, s)\big)\big)

    Args:
        x: Any real values, shape (n, L).
        mean: :math:`\mu`, a number or shape (L,).
        std: Standard deviation :math:`s` > 0, in units of ``x``, a number or shape (L,).

    Returns:
        Probabilities in [0, 1], shape (n, L).

    Raises:
        ValueError: If a standard deviation is not positive. Tensors are checked on the CPU only.

    Example:
        >>> normal_cdf(torch.tensor([[0.65], [0.75]]), mean=0.75, std=0.1)
        tensor([[0.1587],
                [0.5000]])
    """
    _check_positive('std', std)
    return (1 + torch.erf((x - mean) / (2**0.5 * std))) / 2


def beta_cdf(x: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    r"""Cumulative distribution of a beta variable, the regularised incomplete beta function.

    .. math:: F(x) = \int_0^x t^{a-1} (1-t)^{b-1} dt \Big/ \int_0^1 t^{a-1} (1-t)^{b-1} dt

    The integrals below and above x are taken in logarithms over 257 points each, so the result has a gradient in all
    three arguments. For a and b in [0.05, 50] the error stays below 2e-6, and in float64 below 1e-10 for x in
    [1e-8, 1 - 1e-8].

    Args:
        x: Real values, shape (n, L), float32 or float64; F is 0 below 0 and 1 above 1.
        a: First shape parameter > 0, a number or shape (L,).
        b: Second shape parameter > 0, a number or shape (L,).

    Returns:
        Probabilities in [0, 1], shape (n, L).

    Raises:
        ValueError: If a shape parameter is not positive. Tensors are checked on the CPU only.

    Source: Takahasi and Mori, Publ. RIMS 1974 (double-exponential quadrature).

    Example:
        >>> beta_cdf(torch.tensor([[0.25], [0.5], [1.0]]), a=2.0, b=2.0)
        tensor([[0.1562],
                [0.5000],
                [1.0000]])
    """
    _check_positive('a', a)
    _check_positive('b', b)
    a, b = (value if isinstance(value, Tensor) else x.new_full((), value) for value in (a, b))
    finfo = torch.finfo(x.dtype)
    logit = torch.logit(x.clamp(finfo.tiny, 1 - finfo.eps / 2))
    # F is the share of the part below x; t = x u there and 1 - t = (1 - x) u above leave x / (1 - x) and two tails.
    cdf = torch.sigmoid(logit + _log_beta_tail(logit, a, b) - _log_beta_tail(-logit, b, a))
    return torch.where(x <= 0, 0.0, torch.where(x >= 1, 1.0, cdf))


def cramer_von_mises(x: Tensor, cdf: Callable[[Tensor], Tensor]) -> Tensor:
    r"""Squared distance between the empirical distribution of a sample and a prior, averaged over positions.

    .. math:: \frac{1}{nL} \sum_{l, i} \Big(\frac{i}{n+1} - F_l(x_{(i), l})\Big)^2, \qquad x_{(1)} \le \dots \le x_{(n)}

    Args:
        x: Samples, one column per position, in any order, shape (n, L).
        cdf: Maps the sorted samples to probabilities, both (n, L); the gradient flows through it.

    Returns:
        Scalar in [0, 1).

    Raises:
        ValueError: If the samples or their probabilities do not have shape (n, L).

    Source: Bejnordi et al., ICLR 2020 (batch-shaping); MSViT, section 3.

    Example:
        >>> uniform = torch.tensor([[0.75], [0.25], [0.5]])
        >>> cramer_von_mises(uniform, lambda x: x)
        tensor(0.)
    """
    if x.ndim != 2:
        raise ValueError(f'samples must have shape (n, L), got {tuple(x.shape)}')
    n = len(x)
    probabilities = cdf(x.sort(dim=0).values)
    if probabilities.shape != x.shape:
        raise ValueError(f'cdf must return shape {tuple(x.shape)}, got {tuple(probabilities.shape)}')
    ranks = torch.arange(1, n + 1, dtype=x.dtype, device=x.device)
    return (ranks[:, None] / (n + 1) - probabilities).square().mean()


def _log_beta_tail(logit: Tensor, a: Tensor, b: Tensor) -> Tensor:
    r""":math:`\log \int_0^1 u^{a-1} (1 + e^{logit} (1-u))^{b-1} du` up to a constant.

    Substituting :math:`u = \sigma(4 \sinh s)` makes the integrand vanish double-exponentially at both ends, where equal
    steps of s converge fastest; the range covers a = 0.05, whose integrand decays slowest.
    """
    s = torch.linspace(-5.7, 5.7, 257, dtype=logit.dtype, device=logit.device)
    log_u, log_v = logsigmoid(4 * s.sinh()), logsigmoid(-4 * s.sinh())  # v = 1 - u
    log_power = (1 - b[..., None]) * logsigmoid(-logit[..., None] - log_v)
    return torch.logsumexp(a[..., None] * log_u + log_v + s.cosh().log() + log_power, dim=-1)


def _check_positive(name: str, value: Tensor | float) -> None:
    # Reading a value from an accelerator would make the host wait for it at every step.
    if isinstance(value, Tensor) and value.device.type != 'cpu':
        return
    smallest = torch.as_tensor(value).min().item()
    if not smallest > 0:
        raise ValueError(f'{name} must be positive, got {smallest}')
