"""From gate logits to decisions: the relaxed sample and its hard reading, or a ranking under a budget of tokens."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .tiling import Maps, Tiling, per_scale, split_costs


def relaxed_gate_sample(gate_logits: Tensor, temperature: float = 1.0, noise: bool = True) -> Tensor:
    r"""Gumbel-sigmoid sample of a gate.

    .. math:: m = \sigma\big((g + \log u - \log(1 - u)) / \tau\big), \qquad u \sim U(0, 1)

    Args:
        gate_logits: :math:`g`, any shape.
        temperature: :math:`\tau` > 0, unitless.
        noise: Without noise this is the plain sigmoid, as used at inference.

    Returns:
        Gate values in [0, 1], same shape, in float32 at least.

    Raises:
        ValueError: If the temperature is not positive.

    Source: Maddison et al., ICLR 2017; MSViT, section 3.
    """
    if not temperature > 0:
        raise ValueError(f'temperature must be positive, got {temperature}')
    gate_logits = gate_logits.float() if gate_logits.dtype in (torch.float16, torch.bfloat16) else gate_logits
    if noise:
        eps = torch.finfo(gate_logits.dtype).eps
        u = torch.rand_like(gate_logits).clamp(eps, 1 - eps)
        gate_logits = gate_logits + u.log() - (1 - u).log()
    return torch.sigmoid(gate_logits / temperature)


def threshold(gate_values: Tensor) -> Tensor:
    """Decisions ``1[m > 0.5]``: 1 = coarse, or open; same shape and dtype, no gradient."""
    return (gate_values.detach() > 0.5).to(gate_values.dtype)


class BudgetError(ValueError):
    """A token budget that no decisions keep."""


def budget_decisions(gate_logits: Maps, tiling: Tiling, token_budget: float) -> Maps:
    """Decisions under a budget: in the order of the logits, lowest first, nodes are split until the next is too much.

    So no image has more than ``token_budget`` tokens, and one more split would exceed it; under a budget that is above
    all nodes split, as it may be in small images, all are. Nodes cut by the border have fewer children and cost
    accordingly. A node never comes before the one that contains it; equal logits go from the largest scale to the
    smallest, in raster order within each.

    Args:
        gate_logits: Shape (B, rows, cols), per scale but the smallest.
        tiling: Candidates of the images.
        token_budget: Active patch tokens of each image.

    Returns:
        1 = one token, 0 = split; same shapes, in float32 at least.

    Raises:
        BudgetError: If all nodes unsplit cost more.

    Example:
        >>> tiling = Tiling(height=32, width=80, patch_sizes=(16, 32))  # regions of 4, 4 and 2 cells
        >>> budget_decisions(torch.tensor([[[-1.0, 2.0, -3.0]]]), tiling, token_budget=7)
        tensor([[[0., 1., 0.]]])
    """
    num_regions = tiling.num_regions
    if not token_budget >= num_regions:  # nor NaN
        raise BudgetError(
            f'token_budget: wanted at least {num_regions} tokens (all regions coarse) for images of '
            f'{(tiling.height, tiling.width)} pixels, got {token_budget}'
        )
    bounded = bound_logits(gate_logits, tiling)
    flat = torch.cat([logits.flatten(1) for logits in bounded], dim=1)
    costs = torch.cat([cost.flatten() for cost in split_costs(tiling, flat.device)])
    order = flat.argsort(dim=1, stable=True)
    spent = costs[order].cumsum(1)
    dtype = torch.promote_types(flat.dtype, torch.float32)
    kept = (spent > token_budget - num_regions + 1e-6).to(dtype)  # budgets such as 10.3 are no exact floats
    decisions = torch.zeros_like(kept).scatter(1, order, kept).split([x[0].numel() for x in bounded], dim=1)
    maps = tuple(x.view_as(logits) for x, logits in zip(decisions, bounded, strict=True))
    return maps[0] if isinstance(gate_logits, Tensor) else maps


def bound_logits(gate_logits: Maps, tiling: Tiling) -> list[Tensor]:
    """Logits of each scale that are no lower than those of the nodes around: in their order any prefix is a tree."""
    bounded = [per_scale(gate_logits)[0]]
    for (parent, child), logits in zip(pairwise(tiling.scales), per_scale(gate_logits)[1:], strict=False):
        k = parent.side // child.side
        above = bounded[-1].repeat_interleave(k, dim=1).repeat_interleave(k, dim=2)[:, : child.rows, : child.cols]
        bounded.append(torch.maximum(logits, above))
    return bounded


def straight_through(gate_values: Tensor) -> Tensor:
    """Decisions in the forward pass with the gradient of the gate values in the backward pass.

    Example:
        >>> m = torch.tensor([0.2, 0.7], requires_grad=True)
        >>> straight_through(m)
        tensor([0., 1.], grad_fn=<AddBackward0>)
    """
    return threshold(gate_values) + zero_with_gradient(gate_values)


def zero_with_gradient(gate_values: Tensor) -> Tensor:
    """Exactly zero in the forward pass, the gradient of ``gate_values`` in the backward pass."""
    return gate_values - gate_values.detach()


def with_zero_gradients(x: Tensor, *parameters: Tensor) -> Tensor:
    """``x``, whose backward pass gives each parameter a gradient of zeros, as wrappers for several processes want."""
    return _ZeroGradients.apply(x, *parameters)


class _ZeroGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = zip(ctx.parameters, ctx.needs_input_grad[1:], strict=True)
        return (*gradients, *(torch.zeros_like(x) if needed else None for x, needed in wanted))
