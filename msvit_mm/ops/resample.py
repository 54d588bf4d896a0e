"""Patches and position grids of both scales."""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from .packing import Packing
from .regions import RegionGrid, cells_to_slots


def shrink_regions(images: Tensor, scale: int) -> Tensor:
    """Resize linearly so that a coarse patch gets the size of a fine one, (B, 3, H, W) -> (B, 3, H / s, W / s).

    The mean over ``scale`` x ``scale`` pixels: at scale 2 bilinear interpolation itself, and at larger scales without
    its aliasing. No pixel of one region reaches another. Slices, because they take a fourth of the time of
    ``avg_pool2d`` on a CPU.
    """
    columns = reduce(torch.add, (images[..., i::scale, :] for i in range(scale)))
    return reduce(torch.add, (columns[..., i::scale] for i in range(scale))) / scale**2


@torch.compiler.disable  # nothing to fuse, and two shapes that depend on values
def gather_patches(images: Tensor, grid: RegionGrid, chosen: Packing) -> Tensor:
    """Pixels of the chosen candidates, of coarse ones at the size of fine ones.

    Args:
        images: Padded to whole regions, shape (B, 3, rows * S, cols * S).
        chosen: Of extra + R * (1 + s * s) candidates per image; the first ``extra`` have no pixels and are left out.

    Returns:
        Shape (T, 3, patch_size, patch_size).
    """
    scale, side = grid.scale, grid.patch_size
    # (B, 3, H, W) -> (B, rows, cols, s, s, 3, p, p) and (B, rows, cols, 3, p, p), as views
    fine = images.unflatten(3, (-1, scale, side)).unflatten(2, (-1, scale, side)).permute(0, 2, 5, 3, 6, 1, 4, 7)
    small = shrink_regions(images, scale)
    coarse = small.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5)

    extra = chosen.shape[1] - grid.num_regions * grid.slots
    image, place = chosen.image_of_token(), chosen.index % chosen.shape[1] - extra
    image, place = image[place >= 0], place[place >= 0]
    slot = place % grid.slots
    row, col = torch.unravel_index(place.div(grid.slots, rounding_mode='floor'), (grid.rows, grid.cols))
    a, b = (slot == 0).nonzero().squeeze(1), slot.nonzero().squeeze(1)
    y, x = torch.unravel_index(slot[b] - 1, (scale, scale))
    patches = torch.cat([coarse[image[a], row[a], col[a]], fine[image[b], row[b], col[b], y, x]])
    return patches.index_select(0, torch.cat([a, b]).argsort())


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
