"""Which candidate tokens of which scale an image has, and the index arithmetic between pixels, nodes and cells.

A *node* is the square of one patch of some scale, a *region* the node of the largest, a *cell* that of the smallest.
Every region holds a tree: each node contains those of the next smaller scale. All its nodes are candidate tokens, its
*slots*, ordered from the largest scale to the smallest and in raster order within a scale: slot 0 is the region's own.

Decisions are one map per scale but the smallest, the largest first: 1 = the node stays one token, 0 = it is split. With
two scales there is one map, of regions, which needs no tuple around it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .packing import Packing

Maps = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Tiling:
    """The candidate tokens of an image of any size.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        patch_sizes: Sides of the patches in pixels, ascending, each a larger multiple of the one before.

    Raises:
        ValueError: If the sizes do not fit together.

    Example:
        >>> tiling = Tiling(height=80, width=96, patch_sizes=(16, 32))
        >>> tiling.rows, tiling.cols, tiling.cell_rows, tiling.cell_cols
        (3, 3, 5, 6)
    """

    height: int
    width: int
    patch_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f'an image needs at least one pixel, got (height, width) {(self.height, self.width)}')
        sides = self.patch_sizes
        whole = len(sides) >= 2 and all(isinstance(side, int) and side > 0 for side in sides)
        if not whole or any(large <= small or large % small for small, large in pairwise(sides)):
            raise ValueError(
                f'patch sizes must be whole pixels, at least two, each a larger multiple of the one before, got {sides}'
            )

    @property
    def patch_size(self) -> int:
        """Side of a cell in pixels."""
        return self.patch_sizes[0]

    @property
    def region_size(self) -> int:
        """Side of a region in pixels."""
        return self.patch_sizes[-1]

    @property
    def scales(self) -> tuple['Scale', ...]:
        """The scales, the largest first."""
        scales, first = [], 0
        for side in reversed(self.patch_sizes):
            per_side = self.region_size // side
            scales.append(Scale(side, per_side, first, -(-self.height // side), -(-self.width // side)))
            first += per_side**2
        return tuple(scales)

    @property
    def slots(self) -> int:
        """Candidate tokens of one region."""
        return sum((self.region_size // side) ** 2 for side in self.patch_sizes)

    @property
    def rows(self) -> int:
        """Rows of regions."""
        return -(-self.height // self.region_size)

    @property
    def cols(self) -> int:
        """Columns of regions."""
        return -(-self.width // self.region_size)

    @property
    def num_regions(self) -> int:
        return self.rows * self.cols

    @property
    def cell_rows(self) -> int:
        """Height of the feature map: cells that touch the image."""
        return -(-self.height // self.patch_size)

    @property
    def cell_cols(self) -> int:
        return -(-self.width // self.patch_size)

    @property
    def num_cells(self) -> int:
        return self.cell_rows * self.cell_cols


@dataclass(frozen=True)
class Scale:
    """One scale of a tiling.

    Attributes:
        side: Of a node in pixels.
        per_side: Nodes along one side of a region.
        first: Slot of the first node.
        rows, cols: Nodes that touch the image.
    """

    side: int
    per_side: int
    first: int
    rows: int
    cols: int


def per_scale(maps: Maps) -> tuple[Tensor, ...]:
    """Maps of all scales but the smallest as a tuple, also of the one that two scales have."""
    return (maps,) if isinstance(maps, Tensor) else tuple(maps)


def as_maps(maps: Sequence[Tensor]) -> Maps:
    """The inverse of :func:`per_scale`: one map without a tuple around it."""
    return maps[0] if len(maps) == 1 else tuple(maps)


def map_scales(function: Callable[..., Tensor], *maps: Maps) -> Maps:
    """What a function makes of the maps of each scale."""
    return as_maps([function(*own) for own in zip(*map(per_scale, maps), strict=True)])


def regions_to_nodes(values: Tensor, scale: Scale) -> Tensor:
    """Copy one value per region to its nodes of a scale, (B, rows, cols) -> (B, scale.rows, scale.cols)."""
    return _enlarge(values, scale.per_side)[:, : scale.rows, : scale.cols]


def reached_nodes(decisions: Maps, sides: Sequence[int]) -> Maps:
    """Which nodes matter: 1 for those all of whose parents are split, like the decisions.

    Args:
        decisions: Shape (B, rows, cols) per scale, the largest first; means over windows count in part.
        sides: Of the nodes of each scale in pixels.
    """
    maps = per_scale(decisions)
    reached = [torch.ones_like(maps[0])]
    for (larger, smaller), above, own in zip(pairwise(sides), maps, maps[1:], strict=False):
        split = _enlarge(reached[-1] * (1 - above), larger // smaller)
        reached.append(split[:, : own.shape[1], : own.shape[2]])
    return as_maps(reached)


def reached_ratios(decisions: Maps, sides: Sequence[int]) -> list[Tensor]:
    """Share of the nodes that stay whole, of each scale among those whose parents are split.

    Args:
        decisions, sides: As for :func:`reached_nodes`.

    Example:
        >>> regions, nodes = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]])
        >>> reached_ratios((regions, nodes), sides=(32, 16))
        [tensor(0.5000), tensor(0.2500)]
    """
    maps = as_maps([x.double() for x in per_scale(decisions)])
    pairs = zip(per_scale(reached_nodes(maps, sides)), per_scale(maps), strict=True)
    ratios = [(reached * stays).sum() / reached.sum().clamp(min=1) for reached, stays in pairs]
    return [ratio.to(x) for ratio, x in zip(ratios, per_scale(decisions), strict=True)]


def pad_to_regions(images: Tensor, region_size: int) -> Tensor:
    """Zero-pad images at the right and bottom to whole regions, (B, 3, H, W) -> (B, 3, rows * S, cols * S)."""
    right, bottom = -images.shape[3] % region_size, -images.shape[2] % region_size
    if not (right or bottom):
        return images  # F.pad would copy them
    return F.pad(images, (0, right, 0, bottom))


def nodes_to_slots(nodes: Tensor, per_side: int) -> Tensor:
    """Nodes of whole regions to region-major order, (B, rows * k, cols * k, ...) -> (B, R, k * k, ...)."""
    batch, height, width, *rest = nodes.shape
    nodes = nodes.reshape(batch, height // per_side, per_side, width // per_side, per_side, *rest)
    return nodes.transpose(2, 3).reshape(batch, -1, per_side * per_side, *rest)


def nodes_to_cells(values: Tensor, tiling: Tiling, side: int | None = None) -> Tensor:
    """Copy one value per node to its cells, (B, rows, cols) -> (B, h, w).

    Args:
        values: Of the nodes of one scale.
        side: Of these nodes in pixels; by default they are the regions.
    """
    cells = _enlarge(values, (side or tiling.region_size) // tiling.patch_size)
    return cells[:, : tiling.cell_rows, : tiling.cell_cols]


def token_areas(tiling: Tiling, device: torch.device | str | None = None) -> Tensor:
    """Pixels of the image that each candidate token covers.

    Returns:
        Integer pixel counts, shape (R, slots); 0 for a node wholly outside the image.

    Example:
        >>> token_areas(Tiling(height=16, width=40, patch_sizes=(16, 32)))
        tensor([[512, 256, 256,   0,   0],
                [128, 128,   0,   0,   0]])
    """
    areas = []
    for scale in tiling.scales:
        ys, xs = (
            (length - scale.side * torch.arange(count * scale.per_side, device=device)).clamp(0, scale.side)
            for length, count in ((tiling.height, tiling.rows), (tiling.width, tiling.cols))
        )
        areas.append(nodes_to_slots((ys[:, None] * xs[None, :])[None], scale.per_side)[0])
    return torch.cat(areas, dim=1)


def active_slots(decisions: Maps, tiling: Tiling) -> Tensor:
    """Which candidate tokens take part: nodes inside the image that stay one token and all of whose parents are split.

    Args:
        decisions: 1 = one token, 0 = split, of every scale but the smallest, shape (B, rows, cols) each.

    Returns:
        Boolean, shape (B, R, slots). The areas of an image's active tokens sum to its height times width.
    """
    split, parts = None, []
    for scale, own, stays in _slots_by_scale(decisions, tiling):
        reached = own if split is None else own & to_children(split, scale.per_side)
        if stays is not None:
            split = reached & ~stays
            reached = reached & stays
        parts.append(reached)
    return torch.cat(parts, dim=-1)


def other_slots(decisions: Maps, tiling: Tiling) -> Tensor:
    """Which further candidate tokens say what every node that is reached would be, were its own decision the other.

    Of a node that is split this is its own token, of one that stays whole the tokens into which the decisions of the
    nodes within divide it.

    Args:
        decisions: As for :func:`active_slots`.

    Returns:
        Boolean, shape (B, R, slots).
    """
    split, opened, parts = None, None, []  # opened: split, if the node that stays whole around them were
    for scale, own, stays in _slots_by_scale(decisions, tiling):
        if split is None or opened is None:
            reached, within = own, torch.zeros_like(own)
        else:
            reached, within = (own & to_children(x, scale.per_side) for x in (split, opened))
        if stays is None:
            parts.append(within)
        else:
            parts.append((reached & ~stays) | (within & stays))
            split, opened = reached & ~stays, (reached & stays) | (within & ~stays)
    return torch.cat(parts, dim=-1)


def _slots_by_scale(decisions: Maps, tiling: Tiling) -> Iterator[tuple[Scale, Tensor, Tensor | None]]:
    """Of each scale its nodes inside the image, (R, k * k), and those that stay whole, (B, R, k * k), or None."""
    inside = token_areas(tiling, per_scale(decisions)[0].device) > 0
    for scale, stays in zip(tiling.scales, (*per_scale(decisions), None), strict=True):
        own = inside[:, scale.first : scale.first + scale.per_side**2]
        if stays is not None:
            pad = (0, tiling.cols * scale.per_side - scale.cols, 0, tiling.rows * scale.per_side - scale.rows)
            stays = nodes_to_slots(F.pad(stays.bool(), pad), scale.per_side)
        yield scale, own, stays


def cell_slots(tiling: Tiling, device: torch.device | str | None = None) -> tuple[Tensor, ...]:
    """Candidates that may represent each cell: its node of every scale, the largest first.

    Returns:
        Indices into R * slots, shape (h, w) each.
    """
    ys = torch.arange(tiling.cell_rows, device=device)[:, None]
    xs = torch.arange(tiling.cell_cols, device=device)[None, :]
    length = tiling.region_size // tiling.patch_size
    region = ys.div(length, rounding_mode='floor') * tiling.cols + xs.div(length, rounding_mode='floor')
    candidates = []
    for scale in tiling.scales:
        y, x = ((z % length).div(scale.side // tiling.patch_size, rounding_mode='floor') for z in (ys, xs))
        candidates.append(region * tiling.slots + scale.first + y * scale.per_side + x)
    return tuple(candidates)


def cell_tokens(decisions: Maps, tiling: Tiling) -> Tensor:
    """The active candidate that covers each cell, an index into R * slots, (B, rows, cols) per scale -> (B, h, w)."""
    maps = per_scale(decisions)
    *larger, chosen = cell_slots(tiling, maps[0].device)
    for scale, candidate, stays in reversed(list(zip(tiling.scales, larger, maps, strict=False))):
        chosen = torch.where(nodes_to_cells(stays, tiling, scale.side).bool(), candidate, chosen)
    return chosen


def nodes_of(slots: Tensor, scale: Scale) -> Tensor:
    """How many of a scale's nodes take part, (B, R, slots) -> (B,)."""
    return slots[:, :, scale.first : scale.first + scale.per_side**2].sum((1, 2))


class Nodes(NamedTuple):
    """The nodes of one scale among packed tokens.

    Attributes:
        at: Which tokens they are, shape (n,).
        image: Of each, shape (n,).
        row, col: In the map of the scale, shape (n,).
    """

    at: Tensor
    image: Tensor
    row: Tensor
    col: Tensor


def nodes_among(chosen: Packing, tiling: Tiling, side: int) -> Nodes:
    """Nodes of a side in pixels among chosen candidates, of extra + R * slots per image."""
    scale = next(scale for scale in tiling.scales if scale.side == side)
    place = chosen.index % chosen.shape[1] - (chosen.shape[1] - tiling.num_regions * tiling.slots)
    slot = place % tiling.slots - scale.first
    at = ((place >= 0) & (slot >= 0) & (slot < scale.per_side**2)).nonzero().squeeze(1)
    region, slot = place[at] // tiling.slots, slot[at]
    row, col = torch.unravel_index(region, (tiling.rows, tiling.cols))
    y, x = torch.unravel_index(slot, (scale.per_side, scale.per_side))
    return Nodes(at, chosen.image_of_token()[at], row * scale.per_side + y, col * scale.per_side + x)


def split_costs(tiling: Tiling, device: torch.device | str | None = None) -> tuple[Tensor, ...]:
    """Tokens that an image has more once a node is split, of every scale but the smallest, shape (rows, cols) each."""
    costs = []
    for parent, child in pairwise(tiling.scales):
        k = parent.side // child.side
        ys, xs = (
            (children - k * torch.arange(count, device=device)).clamp(max=k)
            for children, count in ((child.rows, parent.rows), (child.cols, parent.cols))
        )
        costs.append(ys[:, None] * xs[None, :] - 1)
    return tuple(costs)


def shrink(images: Tensor, factor: int) -> Tensor:
    """Resize linearly so that a patch gets the size of a smaller one, (B, 3, H, W) -> (B, 3, H / f, W / f).

    The mean over ``factor`` x ``factor`` pixels: for 2 bilinear interpolation itself, and beyond without its aliasing.
    No pixel of one region reaches another. Slices, because they take a fourth of the time of ``avg_pool2d`` on a CPU.
    """
    if factor == 1:
        return images
    columns = reduce(torch.add, (images[..., i::factor, :] for i in range(factor)))
    return reduce(torch.add, (columns[..., i::factor] for i in range(factor))) / factor**2


@torch.compiler.disable  # nothing to fuse, and shapes that depend on values
def to_squares(images: Tensor, side: int) -> Tensor:
    """Cut images into squares, as a view, (B, C, rows * side, cols * side) -> (B, rows, cols, C, side, side).

    Example:
        >>> to_squares(torch.arange(8.0).view(1, 1, 2, 4), 2)[0, 0, 1, 0]
        tensor([[2., 3.],
                [6., 7.]])
    """
    return images.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5)


def gather_patches(images: Tensor, tiling: Tiling, chosen: Packing) -> Tensor:
    """Pixels of the chosen candidates, all at the size of the smallest.

    Args:
        images: Padded to whole regions, shape (B, 3, rows * S, cols * S).
        chosen: Of extra + R * slots candidates per image; the first ``extra`` have no pixels and are left out.

    Returns:
        Shape (T, 3, patch_size, patch_size).
    """
    side, patches, order = tiling.patch_size, [], []
    for scale in tiling.scales:
        nodes = to_squares(shrink(images, scale.side // side), side)  # (B, rows, cols, 3, p, p)
        at, image, row, col = nodes_among(chosen, tiling, scale.side)
        patches.append(nodes[image, row, col])
        order.append(at)
    return torch.cat(patches).index_select(0, torch.cat(order).argsort())


def position_table(cell_positions: Tensor, tiling: Tiling) -> Tensor:
    """Position embeddings of all candidates from those of the cells: a node gets the mean over its cells in the image.

    Args:
        cell_positions: Shape (1, h * w, C).

    Returns:
        Shape (1, R, slots, C); 0 for nodes outside the image.
    """
    cells = cell_positions.unflatten(1, (tiling.cell_rows, tiling.cell_cols))  # (1, h * w, C) -> (1, h, w, C)
    parts = []
    for scale in tiling.scales:
        k, size = scale.side // tiling.patch_size, cells.permute(0, 3, 1, 2)
        mean = cells if k == 1 else F.avg_pool2d(size, k, ceil_mode=True, count_include_pad=False).permute(0, 2, 3, 1)
        pad = (0, 0, 0, tiling.cols * scale.per_side - scale.cols, 0, tiling.rows * scale.per_side - scale.rows)
        parts.append(nodes_to_slots(F.pad(mean, pad), scale.per_side))
    return torch.cat(parts, dim=2)


def regions_with_boundary(labels: Tensor, region_size: int, ignore_index: int = 255) -> Tensor:
    """Which regions hold pixels of more than one class.

    Args:
        labels: Class of each pixel, integers, shape (H, W).
        region_size: Side of a region in pixels; those at the right and bottom may be cut.
        ignore_index: Label of pixels that count for nothing.

    Returns:
        Boolean, shape (rows, cols).
    """
    labels = labels.float()[None]
    ignored = labels == ignore_index
    highest = F.max_pool2d(labels.masked_fill(ignored, -1), region_size, ceil_mode=True)
    lowest = -F.max_pool2d(-labels.masked_fill(ignored, 1e4), region_size, ceil_mode=True)
    return (highest > lowest)[0]


def _enlarge(values: Tensor, factor: int) -> Tensor:
    """Repeat rows and columns, (B, rows, cols) -> (B, f * rows, f * cols)."""
    return values.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def to_children(values: Tensor, per_side: int) -> Tensor:
    """Copy values of a scale's nodes to those of a smaller one, region by region, (B, R, j * j) -> (B, R, k * k)."""
    batch, regions, count = values.shape
    if count == 1:
        return values.expand(-1, -1, per_side**2)
    side = round(count**0.5)
    grid = values.reshape(batch * regions, side, side)
    return _enlarge(grid, per_side // side).reshape(batch, regions, -1)
