"""What a coarse token lacks and gets: all pixels of its region at the input, detail for its cells at the output.

Both read only the region's own pixels and token, act only where a region is coarse, and begin as zero: a fresh network
is the one without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..gates.base import linear_macs
from ..ops.packing import Packing
from ..ops.tiling import Tiling, pad_to_regions


class CoarsePixels(nn.Linear):
    r"""A coarse token's own embedding of its region at full resolution, beside the shared one of the shrunk region.

    .. math:: x_j = P(\mathrm{shrink}(p_j)) + W \, \mathrm{vec}(p_j) + b + \mathrm{pos}_j

    Args:
        region_size: Side of a region in pixels.
        embed_dims: Channels of a token.
        in_channels: Of the image.

    Source: APT (arXiv 2510.18091) recovers most of the loss of large patches by such a path from the zero.
    """

    def __init__(self, region_size: int, embed_dims: int, in_channels: int = 3) -> None:
        super().__init__(in_channels * region_size**2, embed_dims)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def add_to(self, tokens: Tensor, images: Tensor, tiling: Tiling, chosen: Packing) -> Tensor:
        """Add the term to the coarse ones among the patches of the chosen candidates, (T, C) -> (T, C)."""
        place = chosen.index % chosen.shape[1] - (chosen.shape[1] - tiling.num_regions * tiling.slots)
        image, place = chosen.image_of_token()[place >= 0], place[place >= 0]
        at = (place % tiling.slots == 0).nonzero().squeeze(1)
        regions = gather_regions(images, tiling, image[at], place[at] // tiling.slots)
        return tokens.index_add(0, at, self(regions.flatten(1)).to(tokens.dtype))


class CellDetail(nn.Module):
    r"""What the cells of a coarse region have beside their region's token.

    .. math:: F_l(c) = y_{lj} + V_l \, \mathrm{gelu}\big(U p_c + T_l \, \mathrm{LN}_l(y_{lj})\big)

    Args:
        patch_size: Side of a cell in pixels.
        in_dims: Channels of a token.
        out_dims: Channels of what a cell gets; by default those of a token.
        hidden_dims: Width of the perceptron.
        levels: Outputs of the network that get detail, by their place among ``out_indices``.
        in_channels: Of the image.
    """

    def __init__(
        self,
        patch_size: int,
        in_dims: int,
        out_dims: int | None = None,
        hidden_dims: int = 64,
        levels: Sequence[int] = (0,),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.pixels = nn.Linear(in_channels * patch_size**2, hidden_dims)
        self.norms = nn.ModuleList(nn.LayerNorm(in_dims) for _ in self.levels)
        self.tokens = nn.ModuleList(nn.Linear(in_dims, hidden_dims, bias=False) for _ in self.levels)
        outputs = [nn.Linear(hidden_dims, out_dims or in_dims) for _ in self.levels]
        self.outputs = nn.ModuleList(outputs)
        for output in outputs:
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)

    def check_levels(self, out_type: str, count: int) -> None:
        """Check that the levels are among the outputs of a network.

        Raises:
            ValueError: If they are not, or its outputs are no maps.
        """
        if out_type != 'featmap' or not set(self.levels) <= set(range(count)):
            raise ValueError(
                f"detail: wanted levels among the {count} maps of out_type='featmap', got levels {self.levels} of "
                f'out_type={out_type!r}'
            )

    def forward(self, level: int, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Detail of the cells of coarse tokens.

        Args:
            level: One of ``levels``.
            tokens: Of one coarse region each, shape (n, C).
            pixels: Of their cells, embedded by :attr:`pixels`, shape (n, s * s, hidden).

        Returns:
            Shape (n, s * s, out_dims).
        """
        i = self.levels.index(level)
        hidden = pixels + self.tokens[i](self.norms[i](tokens)).unsqueeze(1)
        return self.outputs[i](F.gelu(hidden))

    def macs_per_region(self, cells: int) -> int:
        """Multiply-adds for one coarse region of so many cells, all levels together."""
        return cells * (linear_macs(self.pixels) + linear_macs(self.outputs)) + linear_macs(self.tokens)


@dataclass(frozen=True)
class DetailOf:
    """Detail of these images, for :meth:`~msvit_mm.ops.mixed_grid.MixedGrid.scatter`."""

    module: CellDetail
    images: Tensor
    tiling: Tiling

    def __post_init__(self) -> None:
        if len(self.tiling.patch_sizes) > 2:
            raise ValueError(f'detail: wanted two patch sizes, got {self.tiling.patch_sizes}')

    @property
    def levels(self) -> tuple[int, ...]:
        return self.module.levels

    def embed(self, image: Tensor, region: Tensor) -> Tensor:
        return self.module.pixels(gather_cells(self.images, self.tiling, image, region))

    def __call__(self, level: int, tokens: Tensor, pixels: Tensor) -> Tensor:
        return self.module(level, tokens, pixels)


def gather_regions(images: Tensor, tiling: Tiling, image: Tensor, region: Tensor) -> Tensor:
    """Pixels of regions, zeros beyond the image, (B, 3, H, W) -> (n, 3, S, S).

    Args:
        image: Of each region, shape (n,).
        region: In raster order within its image, shape (n,).
    """
    size = tiling.region_size
    regions = pad_to_regions(images, size).unflatten(3, (-1, size)).unflatten(2, (-1, size))
    row, col = torch.unravel_index(region, (tiling.rows, tiling.cols))
    return regions.permute(0, 2, 4, 1, 3, 5)[image, row, col]  # (B, rows, cols, 3, S, S)


def gather_cells(images: Tensor, tiling: Tiling, image: Tensor, region: Tensor) -> Tensor:
    """Pixels of the cells of regions, (B, 3, H, W) -> (n, s * s, 3 * p * p), cells in raster order."""
    side = tiling.patch_size
    regions = gather_regions(images, tiling, image, region)  # (n, 3, S, S)
    # (n, 3, S, S) -> (n, s, s, 3, p, p)
    return regions.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
