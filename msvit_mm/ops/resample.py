"""Images to coarse patches, and position grids of both scales."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .regions import RegionGrid, cells_to_slots


def shrink_regions(images: Tensor, scale: int) -> Tensor:
    """Resize linearly so that a coarse patch gets the size of a fine one, (B, 3, H, W) -> (B, 3, H / s, W / s).

    The mean over ``scale`` x ``scale`` pixels: at scale 2 bilinear interpolation itself, and at larger scales without
    its aliasing. No pixel of one region reaches another.
    """
    return F.avg_pool2d(images, scale)


def mixed_position_table(cell_positions: Tensor, grid: RegionGrid) -> Tensor:
    """Position embeddings of all candidates from those of the fine cells.

    A coarse token gets the mean over the cells of its region that touch the image.

    Args:
        cell_positions: Shape (1, h * w, C).

    Returns:
        Shape (1, R, 1 + s * s, C); 0 for fine cells outside the image.
    """
    cells = cell_positions.unflatten(1, (grid.cell_rows, grid.cell_cols))  # (1, h * w, C) -> (1, h, w, C)
    coarse = F.avg_pool2d(cells.permute(0, 3, 1, 2), grid.scale, ceil_mode=True, count_include_pad=False)
    pad = (0, 0, 0, grid.cols * grid.scale - grid.cell_cols, 0, grid.rows * grid.scale - grid.cell_rows)
    fine = cells_to_slots(F.pad(cells, pad), grid.scale)
    return stack_slots(coarse.flatten(2).transpose(1, 2), fine)


def stack_slots(coarse: Tensor, fine: Tensor) -> Tensor:
    """Coarse (B, R, C) and fine (B, R, s * s, C) tokens to candidates (B, R, 1 + s * s, C)."""
    return torch.cat([coarse.unsqueeze(2), fine], dim=2)
