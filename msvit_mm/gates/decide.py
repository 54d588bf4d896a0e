"""From gate logits to decisions: by their sign with noise in training, by a budget, or as given."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.checks import check_maps
from ..ops.gating import budget_decisions, relaxed_gate_sample, threshold
from ..ops.tiling import Maps, Tiling, map_scales, per_scale
from .region import rank_logits


class Decision(NamedTuple):
    """What became of a gate's logits.

    Attributes:
        gate_values: Relaxed sample in [0, 1], like the logits.
        decisions: 1 = coarse, 0 = fine, like the logits.
    """

    gate_values: Maps
    decisions: Maps


def decide(
    gate_logits: Maps,
    tiling: Tiling,
    temperature: float = 1.0,
    noise: bool = False,
    token_budget: float | None = None,
    given: Maps | None = None,
) -> Decision:
    """Decide the nodes of a batch.

    Args:
        gate_logits: Above 0 = coarse, shape (B, rows, cols), per scale but the smallest.
        tiling: Candidates of the images.
        temperature: Of the relaxed sample, > 0.
        noise: Whether the sample is noisy, as in training.
        token_budget: Active patch tokens of each image; the logits then only rank its nodes.
        given: Decisions instead of the gate's, which also overrule a budget.

    Raises:
        ValueError: If given decisions have the wrong shape or values, or no decisions keep the budget.
    """
    gate_values = map_scales(partial(relaxed_gate_sample, temperature=temperature, noise=noise), gate_logits)
    if given is not None:
        decisions = check_maps(given, gate_logits)
    elif token_budget is not None:
        decisions = budget_decisions(gate_logits, tiling, token_budget)
    else:
        decisions = map_scales(threshold, gate_values)
    return Decision(gate_values, decisions)


def rank_decisions(gate_logits: Maps, low: float, high: float) -> Maps:
    """The nodes of the highest logits are coarse, of each image and scale a share drawn from [low, high] for the image.

    Args:
        gate_logits: Shape (B, rows, cols), per scale but the smallest.
    """
    first = per_scale(gate_logits)[0]
    ratios = torch.empty(len(first), 1, 1, device=first.device).uniform_(low, high)

    def rank(logits: Tensor) -> Tensor:
        return (rank_logits(-logits.detach(), (ratios * logits[0].numel()).round()) > 0).to(logits)

    return map_scales(rank, gate_logits)
