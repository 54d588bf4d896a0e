"""From gate logits to decisions: by their sign with noise in training, by a budget, or as given."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.gating import budget_decisions, relaxed_gate_sample, threshold
from ..ops.tiling import Tiling, per_scale
from .region import rank_logits


class Decision(NamedTuple):
    """What became of a gate's logits.

    Attributes:
        gate_values: Relaxed sample in [0, 1], like the logits.
        decisions: 1 = coarse, 0 = fine, like the logits.
    """

    gate_values: Tensor
    decisions: Tensor


def decide(
    gate_logits: Tensor,
    tiling: Tiling,
    temperature: float = 1.0,
    noise: bool = False,
    token_budget: float | None = None,
    given: Tensor | None = None,
) -> Decision:
    """Decide the regions of a batch.

    Args:
        gate_logits: Above 0 = coarse, shape (B, rows, cols).
        tiling: Candidates of the images.
        temperature: Of the relaxed sample, > 0.
        noise: Whether the sample is noisy, as in training.
        token_budget: Active patch tokens of each image; the logits then only rank its regions.
        given: Decisions instead of the gate's, which also overrule a budget.

    Raises:
        ValueError: If given decisions have the wrong shape or values, or no decisions keep the budget.
    """
    gate_values = relaxed_gate_sample(gate_logits, temperature, noise)
    if given is not None:
        decisions = check_decisions(given, gate_logits)
    elif token_budget is not None:
        (decisions,) = per_scale(budget_decisions(gate_logits, tiling, token_budget))
    else:
        decisions = threshold(gate_values)
    return Decision(gate_values, decisions)


def rank_decisions(gate_logits: Tensor, low: float, high: float) -> Tensor:
    """The regions of the highest logits are coarse, of each image a share drawn from [low, high], (B, rows, cols)."""
    count = gate_logits[0].numel()
    ratios = torch.empty(len(gate_logits), 1, 1, device=gate_logits.device).uniform_(low, high)
    return (rank_logits(-gate_logits.detach(), (ratios * count).round()) > 0).to(gate_logits)


def check_decisions(given: Tensor, gate_logits: Tensor, words: str = '0 (fine) or 1 (coarse)') -> Tensor:
    """Decisions as numbers of the logits' type.

    Args:
        words: The two values, for the error.

    Raises:
        ValueError: If they have another shape than the logits, or other values than 0 and 1.
    """
    if given.shape != gate_logits.shape:
        wanted = tuple(gate_logits.shape)
        raise ValueError(f'decisions must have shape (B, rows, cols) = {wanted}, got {tuple(given.shape)}')
    if not ((given == 0) | (given == 1)).all():
        raise ValueError(f'decisions must be {words}, got {torch.unique(given).tolist()[:8]}')
    return given.to(gate_logits)
