"""From gate logits to decisions: the relaxed sample and its hard reading, or a ranking under a budget of tokens."""

import torch
from torch import Tensor

from .regions import RegionGrid, token_areas

BUDGET_SCOPES = ('image', 'batch')


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
    if temperature <= 0:
        raise ValueError(f'temperature must be positive, got {temperature}')
    gate_logits = gate_logits.float() if gate_logits.dtype in (torch.float16, torch.bfloat16) else gate_logits
    if noise:
        eps = torch.finfo(gate_logits.dtype).eps
        u = torch.rand_like(gate_logits).clamp(eps, 1 - eps)
        gate_logits = gate_logits + u.log() - (1 - u).log()
    return torch.sigmoid(gate_logits / temperature)


def hard_decisions(gate_values: Tensor) -> Tensor:
    """Decisions ``1[m > 0.5]``: 1 = coarse, 0 = fine; same shape and dtype, no gradient."""
    return (gate_values.detach() > 0.5).to(gate_values.dtype)


class BudgetError(ValueError):
    """A token budget that no decisions keep."""


def budget_decisions(gate_logits: Tensor, grid: RegionGrid, token_budget: float, scope: str = 'image') -> Tensor:
    """Decisions under a budget: in the order of the logits, lowest first, regions are fine until the next is too much.

    So no image has more than ``token_budget`` tokens, and an image that is not all fine has less than
    ``scale**2 - 1`` fewer. Regions cut by the border have fewer fine cells and cost accordingly. Equal logits go in
    raster order.

    Args:
        gate_logits: Shape (B, rows, cols).
        grid: Regions of the images.
        token_budget: Active patch tokens.
        scope: Of each ``'image'``, or the mean over the ``'batch'``, whose regions then compete with one another.

    Returns:
        1 = coarse, 0 = fine; same shape and dtype.

    Raises:
        BudgetError: If all regions coarse cost more, or all fine cost less.

    Example:
        >>> grid = RegionGrid(height=32, width=80, patch_size=16, coarse_patch_size=32)  # 4, 4 and 2 fine cells
        >>> budget_decisions(torch.tensor([[[-1.0, 2.0, -3.0]]]), grid, token_budget=7)
        tensor([[[0., 1., 0.]]])
    """
    num_regions, num_cells = grid.num_regions, grid.num_cells
    if not num_regions <= token_budget <= num_cells:
        raise BudgetError(
            f'token_budget: wanted between {num_regions} (all regions coarse) and {num_cells} (all fine) tokens for '
            f'images of {(grid.height, grid.width)} pixels, got {token_budget}'
        )
    batch, ranked = len(gate_logits), 1 if scope == 'batch' else len(gate_logits)
    extra = (token_areas(grid, gate_logits.device)[:, 1:] > 0).sum(1) - 1  # tokens that a region costs more when fine
    extra = extra.repeat(batch).view(ranked, -1)  # (R,) -> (ranked, B * R / ranked)
    order = gate_logits.reshape(ranked, -1).argsort(dim=1, stable=True)
    limit = batch / ranked * (token_budget - num_regions) + 1e-6  # means such as 10.3 are no exact floats
    coarse = (extra.gather(1, order).cumsum(1) > limit).to(gate_logits.dtype)
    return torch.zeros_like(coarse).scatter(1, order, coarse).view_as(gate_logits)


def straight_through(gate_values: Tensor) -> Tensor:
    """Decisions in the forward pass with the gradient of the gate values in the backward pass.

    Example:
        >>> m = torch.tensor([0.2, 0.7], requires_grad=True)
        >>> straight_through(m)
        tensor([0., 1.], grad_fn=<AddBackward0>)
    """
    return hard_decisions(gate_values) + zero_with_gradient(gate_values)


def zero_with_gradient(gate_values: Tensor) -> Tensor:
    """Exactly zero in the forward pass, the gradient of ``gate_values`` in the backward pass."""
    return gate_values - gate_values.detach()
