"""What a coarse token lacks and gets: all pixels of its node at the input, detail for its cells at the output.

Both read only the node's own pixels and token, act only where it stays whole, and begin as zero: a fresh network is the
one without them. Of more than two scales each but the smallest has its own (:class:`~msvit_mm.ops.scales.EachScale`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..gates import node_sides
from ..gates.base import linear_macs
from ..ops.packing import Packing
from ..ops.scales import by_scale, for_each_scale
from ..ops.tiling import Tiling, nodes_among, nodes_of, pad_to_regions, to_squares


class CoarsePixels(nn.Linear):
    r"""A coarse token's own embedding of its node at full resolution, beside the shared one of the shrunk node.

    .. math:: x_j = P(\mathrm{shrink}(p_j)) + W \, \mathrm{vec}(p_j) + b + \mathrm{pos}_j

    Args:
        side: Of a node in pixels; of two scales it is the region.
        embed_dims: Channels of a token.
        in_channels: Of the image.

    Source: APT (arXiv 2510.18091) recovers most of the loss of large patches by such a path from the zero.
    """

    def __init__(self, side: int, embed_dims: int, in_channels: int = 3) -> None:
        super().__init__(in_channels * side**2, embed_dims)
        self.side = side
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def add_to(self, tokens: Tensor, images: Tensor, tiling: Tiling, chosen: Packing) -> Tensor:
        """Add the term to the nodes of this side among the chosen candidates, (T, C) -> (T, C)."""
        at, image, row, col = nodes_among(chosen, tiling, self.side)
        pixels = gather_nodes(images, tiling, self.side, image, row, col)
        return tokens.index_add(0, at, self(pixels.flatten(1)).to(tokens.dtype))


class CellDetail(nn.Module):
    r"""What the cells of a node that stays whole have beside its token.

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
            tokens: Of one coarse node each, shape (n, C).
            pixels: Of their cells, embedded by :attr:`pixels`, shape (n, s * s, hidden).

        Returns:
            Shape (n, s * s, out_dims).
        """
        i = self.levels.index(level)
        hidden = pixels + self.tokens[i](self.norms[i](tokens)).unsqueeze(1)
        return self.outputs[i](F.gelu(hidden))

    def macs_per_node(self, cells: int) -> int:
        """Multiply-adds for one coarse node of so many cells, all levels together."""
        return cells * (linear_macs(self.pixels) + linear_macs(self.outputs)) + linear_macs(self.tokens)


def detail_macs(detail: nn.Module | None, slots: Tensor, tiling: Tiling) -> Tensor | int:
    """Multiply-adds of detail for images of these active slots (B, R, slots), shape (B,); 0 without detail.

    Args:
        detail: CellDetail of regions, or EachScale of them.
    """
    pairs = zip(tiling.scales, by_scale(detail), strict=False)
    return sum(nodes_of(slots, x) * own.macs_per_node((x.side // tiling.patch_size) ** 2) for x, own in pairs)


def build_coarse_pixels(embedding: str, patch_sizes: Sequence[int], embed_dims: int, channels: int) -> nn.Module | None:
    """Coarse pixels for each scale but the smallest, or None for a ``'shared'`` embedding."""
    if embedding == 'shared':
        return None
    return for_each_scale(lambda side: CoarsePixels(side, embed_dims, channels), node_sides(patch_sizes))


def build_detail(
    words: dict[str, Any] | None,
    patch_sizes: Sequence[int],
    embed_dims: int,
    channels: int,
    out_type: str,
    num_levels: int,
) -> nn.Module | None:
    """Cell detail for each scale but the smallest, or None without words.

    Raises:
        ValueError: If its levels are not among the outputs of the network.
    """
    if words is None:
        return None
    detail = partial(CellDetail, patch_sizes[0], embed_dims, in_channels=channels, **words)
    built = for_each_scale(lambda _: detail(), node_sides(patch_sizes))
    by_scale(built)[0].check_levels(out_type, num_levels)
    return built


def build_head_detail(words: dict[str, Any] | None, num_classes: int) -> nn.Module | None:
    """Cell detail on class scores for each scale but the smallest, or None without words.

    Args:
        words: Those of :class:`CellDetail`, with the backbone's ``patch_sizes``; of two scales ``patch_size`` will do.

    Raises:
        ValueError: If they have neither, or both.
    """
    if words is None:
        return None
    if ('patch_size' in words) == ('patch_sizes' in words):
        raise ValueError(f"detail: wanted the backbone's patch_size, or of more than two its patch_sizes, got {words}")
    words = dict(words)
    sizes = words.pop('patch_sizes', None)
    patch_size, count = (words.pop('patch_size'), 1) if sizes is None else (sizes[0], len(sizes) - 1)
    return for_each_scale(lambda _: CellDetail(patch_size, num_classes, **words), range(count))


def detail_by_scale(module: nn.Module, tiling: Tiling) -> list[Any]:
    """The CellDetail of each scale but the smallest, the largest nodes' first.

    Args:
        module: CellDetail of regions, or EachScale of them.

    Raises:
        ValueError: If it has not one for each of them.
    """
    modules = by_scale(module)
    if len(modules) != len(tiling.patch_sizes) - 1:
        raise ValueError(f'detail: wanted that of {len(modules) + 1} patch sizes, got patch sizes {tiling.patch_sizes}')
    return modules


@dataclass(frozen=True)
class DetailOf:
    """Detail of these images, for :meth:`~msvit_mm.ops.mixed_grid.MixedGrid.scatter`.

    Attributes:
        module: As for :func:`detail_by_scale`.
    """

    module: nn.Module
    images: Tensor
    tiling: Tiling

    @cached_property
    def modules(self) -> list[Any]:
        return detail_by_scale(self.module, self.tiling)

    @property
    def levels(self) -> tuple[int, ...]:
        return self.modules[0].levels

    def embed(self, scale: int, image: Tensor, row: Tensor, col: Tensor) -> Tensor:
        side = self.tiling.scales[scale].side
        return self.modules[scale].pixels(gather_cells(self.images, self.tiling, side, image, row, col))

    def __call__(self, scale: int, level: int, tokens: Tensor, pixels: Tensor) -> Tensor:
        return self.modules[scale](level, tokens, pixels)


def gather_nodes(images: Tensor, tiling: Tiling, side: int, image: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Pixels of nodes of a side, zeros beyond the image, (B, 3, H, W) -> (n, 3, side, side).

    Args:
        image, row, col: Of each node, shape (n,).
    """
    return to_squares(pad_to_regions(images, tiling.region_size), side)[image, row, col]


def gather_cells(images: Tensor, tiling: Tiling, side: int, image: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Pixels of the cells of nodes, (B, 3, H, W) -> (n, s * s, 3 * p * p), cells in raster order."""
    nodes = gather_nodes(images, tiling, side, image, row, col)
    return to_squares(nodes, tiling.patch_size).flatten(3).flatten(1, 2)  # from (n, s, s, 3, p, p)
