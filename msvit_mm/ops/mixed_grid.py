"""From packed tokens back to the grid of cells, with the gate's gradient where several scales were computed."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .packing import Packing
from .tiling import Maps, Tiling, cell_slots, cell_tokens, nodes_to_cells, per_scale


@dataclass(frozen=True)
class MixedGrid:
    """Which tokens of a batch cover which cells.

    Attributes:
        tiling: Candidates of each image.
        decisions: 1 = one token, 0 = split, shape (B, rows, cols) per scale but the smallest.
        active: The active tokens, class tokens first in each image, among N = extra + R * slots candidates.
        counterfactual: The further candidates that were computed for the gate's gradient, or None.
        gate_zero: 0 with the gradient of the gate values, scaled, and without gradient in nodes that lack one of their
            scales, like ``decisions``; or None if the task does not reach the gate here.
    """

    tiling: Tiling
    decisions: Maps
    active: Packing
    counterfactual: Packing | None = None
    gate_zero: Maps | None = None

    @property
    def num_extra_tokens(self) -> int:
        """Class tokens of each image."""
        return self.active.shape[1] - self.tiling.num_regions * self.tiling.slots

    def scatter(self, levels: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, ...]:
        """Give every cell what its token has: values of any meaning, features as well as class scores.

        Through ``gate_zero`` a gate value feels the contrast between what its node's cells have whole and split: the
        derivative of :math:`V_v = d_v c_v + (1 - d_v) V_{children}`, which is 0 within a node that stays whole.

        Args:
            levels: Values of the active tokens, shape (T, C), and of the counterfactual ones without gradient, (T', C)
                or None.

        Returns:
            Shape (B, C, h, w) for each level, not contiguous: channels are innermost in memory.
        """
        cell_token = cell_tokens(self.decisions, self.tiling) + self.num_extra_tokens  # (B, h, w)
        source = self.active.places().gather(1, cell_token.flatten(1)).view_as(cell_token)
        maps = []
        for active, counterfactual in levels:
            cells = F.embedding(source, active)  # (T, C) -> (B, h, w, C)
            if self.gate_zero is not None:
                cells = self._add_contrasts(cells, active, counterfactual)
            maps.append(cells.permute(0, 3, 1, 2))  # (B, h, w, C) -> (B, C, h, w)
        return tuple(maps)

    def _add_contrasts(self, cells: Tensor, active: Tensor, counterfactual: Tensor) -> Tensor:
        """Zeros whose gradient is the contrast of each node, added to the cells (B, h, w, C)."""
        table = self.active.unpack(active.detach()) + self.counterfactual.unpack(counterfactual)
        *larger, below = (table[:, slot + self.num_extra_tokens] for slot in cell_slots(self.tiling, cells.device))
        nodes = [*zip(self.tiling.scales, larger, per_scale(self.decisions), per_scale(self.gate_zero), strict=False)]
        contrasts = None
        for scale, whole, stays, zero in reversed(nodes):
            stays, zero = (nodes_to_cells(x, self.tiling, scale.side).unsqueeze(-1) for x in (stays, zero))
            own = zero.to(cells) * (whole - below)
            # what lies within a node that stays whole is not reached, and its gate values change nothing
            contrasts = own if contrasts is None else own + contrasts.masked_fill(stays.bool(), 0)
            below = torch.where(stays.bool(), whole, below)
        return cells + contrasts


class MixedTokens(NamedTuple):
    """Tokens that have not returned to the grid, for heads that work on tokens.

    Attributes:
        active: Shape (T, C).
        counterfactual: Further candidates without gradient, shape (T', C), or None.
        layout: Where they belong.
    """

    active: Tensor
    counterfactual: Tensor | None
    layout: MixedGrid


class TokenRows(NamedTuple):
    """Tokens that have not returned to the grid, as many in each image: what a static network hands to a head.

    Attributes:
        tokens: Shape (B, N, C).
        cells: Token of each cell, in [0, N), shape (B, h, w).
        is_key: Which tokens the others attend to, boolean, shape (B, N); None if all are.
    """

    tokens: Tensor
    cells: Tensor
    is_key: Tensor | None = None

    def scatter(self, values: Tensor) -> Tensor:
        """Give every cell what its token has, (B, N, C) -> (B, C, h, w)."""
        batch, length, _ = values.shape
        begin = torch.arange(batch, device=values.device)[:, None, None] * length
        return F.embedding(begin + self.cells, values.flatten(0, 1)).permute(0, 3, 1, 2)  # (B, h, w, C) -> (B, C, h, w)
