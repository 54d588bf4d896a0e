"""Index arithmetic between pixels, regions and fine cells.

A *region* is the area of one coarse patch. It owns ``1 + scale**2`` candidate tokens, its *slots*: slot 0 is the coarse
token, slots 1.. are the fine tokens in raster order. Candidates are ordered region by region, regions in raster order.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class RegionGrid:
    """The regions and fine cells of an image of any size.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        patch_size: Side of a fine patch in pixels.
        coarse_patch_size: Side of a coarse patch in pixels, a multiple of ``patch_size`` and larger.

    Raises:
        ValueError: If the sizes do not fit together.

    Example:
        >>> grid = RegionGrid(height=80, width=96, patch_size=16, coarse_patch_size=32)
        >>> grid.rows, grid.cols, grid.cell_rows, grid.cell_cols
        (3, 3, 5, 6)
    """

    height: int
    width: int
    patch_size: int
    coarse_patch_size: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f'an image needs at least one pixel, got (height, width) {(self.height, self.width)}')
        if self.coarse_patch_size <= self.patch_size or self.coarse_patch_size % self.patch_size:
            raise ValueError(
                f'coarse_patch_size must be a larger multiple of patch_size {self.patch_size}, '
                f'got {self.coarse_patch_size}'
            )

    @property
    def scale(self) -> int:
        """Fine cells along one side of a region."""
        return self.coarse_patch_size // self.patch_size

    @property
    def slots(self) -> int:
        """Candidate tokens of one region: the coarse one and the fine ones."""
        return 1 + self.scale**2

    @property
    def rows(self) -> int:
        return -(-self.height // self.coarse_patch_size)

    @property
    def cols(self) -> int:
        return -(-self.width // self.coarse_patch_size)

    @property
    def num_regions(self) -> int:
        return self.rows * self.cols

    @property
    def cell_rows(self) -> int:
        """Height of the feature map: fine cells that touch the image."""
        return -(-self.height // self.patch_size)

    @property
    def cell_cols(self) -> int:
        return -(-self.width // self.patch_size)

    @property
    def num_cells(self) -> int:
        return self.cell_rows * self.cell_cols


def pad_to_regions(images: Tensor, coarse_patch_size: int) -> Tensor:
    """Zero-pad images at the right and bottom to whole regions, (B, 3, H, W) -> (B, 3, rows * S, cols * S)."""
    right, bottom = -images.shape[3] % coarse_patch_size, -images.shape[2] % coarse_patch_size
    if not (right or bottom):
        return images  # F.pad would copy them
    return F.pad(images, (0, right, 0, bottom))


def cells_to_slots(cells: Tensor, scale: int) -> Tensor:
    """Fine cells of whole regions to region-major order, (B, rows * s, cols * s, ...) -> (B, R, s * s, ...)."""
    batch, height, width, *rest = cells.shape
    cells = cells.reshape(batch, height // scale, scale, width // scale, scale, *rest)
    return cells.transpose(2, 3).reshape(batch, -1, scale * scale, *rest)


def token_areas(grid: RegionGrid, device: torch.device | str | None = None) -> Tensor:
    """Pixels of the image that each candidate token covers.

    Returns:
        Integer pixel counts, shape (R, 1 + s * s); 0 for a fine cell wholly outside the image.

    Example:
        >>> token_areas(RegionGrid(height=16, width=40, patch_size=16, coarse_patch_size=32))
        tensor([[512, 256, 256,   0,   0],
                [128, 128,   0,   0,   0]])
    """
    ys = (grid.height - grid.patch_size * torch.arange(grid.rows * grid.scale, device=device)).clamp(0, grid.patch_size)
    xs = (grid.width - grid.patch_size * torch.arange(grid.cols * grid.scale, device=device)).clamp(0, grid.patch_size)
    fine = cells_to_slots((ys[:, None] * xs[None, :])[None], grid.scale)[0]  # (rows * s, cols * s) -> (R, s * s)
    return torch.cat([fine.sum(1, keepdim=True), fine], dim=1)


def active_slots(decisions: Tensor, grid: RegionGrid) -> Tensor:
    """Which candidate tokens take part: the coarse one where the decision is 1, the fine ones inside the image where 0.

    Args:
        decisions: 1 = coarse, 0 = fine, shape (B, rows, cols).

    Returns:
        Boolean, shape (B, R, 1 + s * s). The areas of an image's active tokens sum to its height times width.
    """
    coarse = decisions.flatten(1).bool().unsqueeze(-1)  # (B, rows, cols) -> (B, R, 1)
    inside = token_areas(grid, decisions.device)[:, 1:] > 0
    return torch.cat([coarse, ~coarse & inside], dim=-1)


def cell_slots(grid: RegionGrid, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Candidates that may represent each fine cell.

    Returns:
        The cell's coarse and fine candidate, each an index into R * (1 + s * s), shape (h, w).
    """
    ys = torch.arange(grid.cell_rows, device=device)[:, None]
    xs = torch.arange(grid.cell_cols, device=device)[None, :]
    region = ys.div(grid.scale, rounding_mode='floor') * grid.cols + xs.div(grid.scale, rounding_mode='floor')
    coarse = region * grid.slots
    return coarse, coarse + 1 + (ys % grid.scale) * grid.scale + xs % grid.scale


def regions_to_cells(values: Tensor, grid: RegionGrid) -> Tensor:
    """Copy one value per region to its fine cells, (B, rows, cols) -> (B, h, w)."""
    cells = values.repeat_interleave(grid.scale, dim=1).repeat_interleave(grid.scale, dim=2)
    return cells[:, : grid.cell_rows, : grid.cell_cols]


def regions_with_boundary(labels: Tensor, coarse_patch_size: int, ignore_index: int = 255) -> Tensor:
    """Which regions hold pixels of more than one class.

    Args:
        labels: Class of each pixel, integers, shape (H, W).
        coarse_patch_size: Side of a region in pixels; those at the right and bottom may be cut.
        ignore_index: Label of pixels that count for nothing.

    Returns:
        Boolean, shape (rows, cols).
    """
    labels = labels.float()[None]
    ignored = labels == ignore_index
    highest = F.max_pool2d(labels.masked_fill(ignored, -1), coarse_patch_size, ceil_mode=True)
    lowest = -F.max_pool2d(-labels.masked_fill(ignored, 1e4), coarse_patch_size, ceil_mode=True)
    return (highest > lowest)[0]
