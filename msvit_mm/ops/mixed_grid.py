"""From packed tokens back to the grid of fine cells, with the gate's gradient where both scales were computed."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .packing import Packing
from .regions import RegionGrid, cell_slots, regions_to_cells


@dataclass(frozen=True)
class MixedGrid:
    """Which tokens of a batch cover which cells.

    Attributes:
        grid: Regions and cells of each image.
        decisions: 1 = coarse, 0 = fine, shape (B, rows, cols).
        active: The active tokens, class tokens first in each image, among N = extra + R * (1 + s * s) candidates.
        others: The further candidates that were computed for the gate's gradient, or None.
        pull: 0 with the gradient of the gate values, scaled, and without gradient in regions that lack one of their
            scales, shape (B, rows, cols); or None if the task does not reach the gate here.
    """

    grid: RegionGrid
    decisions: Tensor
    active: Packing
    others: Packing | None = None
    pull: Tensor | None = None

    @property
    def num_extra_tokens(self) -> int:
        """Class tokens of each image."""
        return self.active.shape[1] - self.grid.num_regions * self.grid.slots

    def scatter(self, levels: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, ...]:
        """Give every fine cell what its token has: values of any meaning, features as well as class scores.

        Through ``pull`` a gate value feels the contrast between what its region's cells have coarse and fine.

        Args:
            levels: Values of the active tokens, shape (T, C), and of the others without gradient, (T', C) or None.

        Returns:
            Shape (B, C, h, w) for each level, not contiguous: channels are innermost in memory.
        """
        coarse, fine = (index + self.num_extra_tokens for index in cell_slots(self.grid, self.decisions.device))
        cell_token = torch.where(regions_to_cells(self.decisions, self.grid).bool(), coarse, fine)  # (B, h, w)
        source = self.active.positions().gather(1, cell_token.flatten(1)).view_as(cell_token)
        maps = []
        for active, others in levels:
            cells = F.embedding(source, active)  # (T, C) -> (B, h, w, C)
            if self.pull is not None:
                table = self.active.unpack(active.detach()) + self.others.unpack(others)
                contrast = table[:, coarse] - table[:, fine]
                cells = cells + regions_to_cells(self.pull, self.grid).unsqueeze(-1).to(cells) * contrast
            maps.append(cells.permute(0, 3, 1, 2))  # (B, h, w, C) -> (B, C, h, w)
        return tuple(maps)


class MixedTokens(NamedTuple):
    """Tokens that have not returned to the grid, for heads that work on tokens.

    Attributes:
        active: Shape (T, C).
        others: Further candidates without gradient, shape (T', C), or None.
        layout: Where they belong.
    """

    active: Tensor
    others: Tensor | None
    layout: MixedGrid
