"""Gates around a gate: at work, so that time and gradients are its own, but with another outcome."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor

from ..ops.maps import Size
from ..ops.tiling import Maps, Tiling, map_scales
from .region import RegionGate
from .route import Edge, TokenGate

BEYOND_NOISE = 100.0  # a logit that the noise of a relaxed gate sample cannot turn over


class StatedGate(RegionGate):
    """A gate of regions whose outcome is stated.

    Unlike ``decisions=`` of the backbone, which rule out counterfactual tokens, this holds for every execution.

    Args:
        gate: The gate that does the work and gets the gradient.
        decisions: 1 = coarse, 0 = fine, shape (B, rows, cols), per scale but the smallest.
    """

    def __init__(self, gate: RegionGate, decisions: Maps) -> None:
        super().__init__(gate.coarse_patch_size)
        self.gate = gate
        self.decisions = decisions

    def macs(self, tiling: Tiling) -> int:
        return self.gate.macs(tiling)

    def forward(self, images: Tensor) -> Maps:
        return map_scales(_state, self.gate(images), self.decisions)


class ShiftedGate(RegionGate):
    """A gate of regions under another threshold.

    Args:
        gate: The gate that does the work.
        threshold: The logit above which a region is coarse.
    """

    def __init__(self, gate: RegionGate, threshold: float) -> None:
        super().__init__(gate.coarse_patch_size)
        self.gate = gate
        self.threshold = threshold

    def macs(self, tiling: Tiling) -> int:
        return self.gate.macs(tiling)

    def forward(self, images: Tensor) -> Maps:
        return map_scales(lambda x: x - self.threshold, self.gate(images))


class StatedRoutes(TokenGate):
    """A gate of routes whose outcome is stated.

    Args:
        gate: The gate that does the work and gets the gradient.
        decisions: 1 = open, 0 = closed, shape (B, rows, cols), on every edge.
    """

    def __init__(self, gate: TokenGate, decisions: Mapping[Edge, Tensor]) -> None:
        super().__init__(gate.edges)
        self.gate = gate
        self.needs_features, self.early = gate.needs_features, gate.early
        self.decisions = decisions

    def macs_per_token(self, edge: Edge) -> int:
        return self.gate.macs_per_token(edge)

    def forward(self, edge: Edge, tokens: Tensor, size: Size) -> Tensor:
        return _state(self.gate(edge, tokens, size), self.decisions[edge].flatten(1))

    def forward_all(self, edges: Sequence[Edge], tokens: Tensor, size: Size) -> Tensor:
        decisions = torch.stack([self.decisions[edge].flatten(1) for edge in edges])
        return _state(self.gate.forward_all(edges, tokens, size), decisions)


@MODELS.register_module()
class ShuffledRoutes(TokenGate):
    """The decisions of another gate in random places: the control of which tokens it opens, at its cost on every edge.

    Of each image and edge as many tokens are open as that gate opens there, on the features that have come about so.

    Args:
        edges: The gated edges; the backbone fills them in.
        gate: The other gate, a module for the same edges.
    """

    examples = ()

    def __init__(self, edges: Mapping[Edge, int], gate: TokenGate) -> None:
        super().__init__(edges)
        self.gate = gate
        self.needs_features, self.early = gate.needs_features, gate.early

    def macs_per_token(self, edge: Edge) -> int:
        return self.gate.macs_per_token(edge)

    def forward(self, edge: Edge, tokens: Tensor, size: Size) -> Tensor:
        logits = self.gate(edge, tokens, size)
        return logits.gather(1, torch.rand_like(logits).argsort(1))


def _state(gate_logits: Tensor, decisions: Tensor) -> Tensor:
    """Logits beyond doubt, with the gradient of the gate's own."""
    return BEYOND_NOISE * (2 * decisions - 1) + gate_logits - gate_logits.detach()
