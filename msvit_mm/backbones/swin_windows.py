"""Tokens of two scales in a Swin transformer: the candidates of a stage, their windows, attention in these, merging."""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.packing import Packing


@dataclass(frozen=True)
class StageGrid:
    """Candidate tokens of one stage: fine *cells*, and coarse *nodes* of ``span`` x ``span`` cells.

    The cells come first, then the nodes, both in raster order; all of them touch the image. Within a region nodes are
    twice as large as cells, until one is as large as the region.

    Args:
        height, width: Of the image in pixels.
        stride: Side of a cell in pixels.
        region_size: Side of a region in pixels, a power of 2 times ``stride``.
    """

    height: int
    width: int
    stride: int
    region_size: int

    @property
    def span(self) -> int:
        """Cells along the side of a node: 2, or 1 where a region has one token of either scale."""
        return min(2, self.region_size // self.stride)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.height // self.stride), -(-self.width // self.stride)

    @property
    def node_size(self) -> tuple[int, int]:
        """Rows and columns of nodes."""
        side = self.stride * self.span
        return -(-self.height // side), -(-self.width // side)

    @property
    def num_cells(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def num_candidates(self) -> int:
        return self.num_cells + self.node_size[0] * self.node_size[1]

    def to_cells(self, regions: Tensor) -> Tensor:
        """Copy one value per region to its cells, (B, rows, cols) -> (B, h, w)."""
        return _spread(regions, self.region_size // self.stride, self.size)

    def select(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Candidates of the regions whose cells, and of those whose nodes are wanted, (B, rows, cols) -> (B, N)."""
        nodes = _spread(coarse, self.region_size // (self.stride * self.span), self.node_size)
        return torch.cat([self.to_cells(fine).flatten(1), nodes.flatten(1)], dim=1)

    def corners(self, device: torch.device) -> Tensor:
        """Row and column of each candidate's first cell, and how many cells its side has, (3, N)."""
        parts = []
        for (rows, cols), span in ((self.size, 1), (self.node_size, self.span)):
            y, x = torch.meshgrid(*(span * torch.arange(n, device=device) for n in (rows, cols)), indexing='ij')
            parts.append(torch.stack([y, x, torch.full_like(y, span)]).flatten(1))
        return torch.cat(parts, dim=1)

    def covering(self, coarse: Tensor) -> Tensor:
        """The candidate of each cell: its region's node where ``coarse`` (B, rows, cols), else itself, (B, h, w)."""
        ys, xs = (torch.arange(n, device=coarse.device) for n in self.size)
        cells = ys[:, None] * self.size[1] + xs
        nodes = self.num_cells + ys[:, None] // self.span * self.node_size[1] + xs // self.span
        return torch.where(self.to_cells(coarse), nodes, cells)

    def children(self, finer: 'StageGrid', device: torch.device) -> Tensor:
        """The four candidates of the stage before that become each one here, (N, 4); ``finer``'s N where there is none.

        A node that was as large already, since it is its region's only token, comes from four copies of itself.
        """
        parts, pairs = [], torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]], device=device)
        for size, finer_size, first, copied in (
            (self.size, finer.size, 0, False),
            (self.node_size, finer.node_size, finer.num_cells, finer.span > self.span),
        ):
            place = torch.arange(size[0] * size[1], device=device).unsqueeze(1)
            y, x = place // size[1], place % size[1]
            if not copied:
                y, x = 2 * y + pairs[0], 2 * x + pairs[1]
            inside = (y < finer_size[0]) & (x < finer_size[1])
            parts.append(torch.where(inside, first + y * finer_size[1] + x, finer.num_candidates).expand(-1, 4))
        return torch.cat(parts)


@dataclass(frozen=True)
class StageTokens:
    """The tokens of a batch that run in one stage, in the order of their candidates."""

    grid: StageGrid
    packing: Packing

    @cached_property
    def image(self) -> Tensor:
        """Image of each token, (T,)."""
        return self.packing.image_of_token()

    @cached_property
    def place(self) -> Tensor:
        """Candidate that each token is, (T,)."""
        return self.packing.index - self.image * self.grid.num_candidates

    @cached_property
    def corner(self) -> Tensor:
        """Row and column of each token's first cell, and how many cells its side has, (3, T)."""
        return self.grid.corners(self.place.device).index_select(1, self.place)

    @cached_property
    def centre(self) -> Tensor:
        """Row and column of each token's centre in half cells, and how many cells its side has, (3, T)."""
        y, x, span = self.corner
        return torch.stack([2 * y + span, 2 * x + span, span])

    def siblings(self, finer: 'StageTokens') -> Tensor:
        """The four tokens of the stage before that become each one, (T, 4); as many as there are where one lacks."""
        places = F.pad(finer.packing.places(), (0, 1), value=len(finer.place))
        return places[self.image.unsqueeze(1), self.grid.children(finer.grid, self.place.device)[self.place]]

    def on_cells(self, x: Tensor, decisions: Tensor) -> Tensor:
        """What covers each cell under decisions (B, rows, cols) that these tokens (T, C) fulfil, (B, h, w, C)."""
        covering = self.grid.covering(decisions.bool())
        return F.embedding(self.packing.places().gather(1, covering.flatten(1)).view_as(covering), x)


class Layer(NamedTuple):
    """How a layer's windows lie."""

    size: int
    shift: int

    def number(self, length: int) -> int:
        """Windows along an axis of as many cells."""
        return -(-length // self.size) + (self.shift > 0)

    def pairs(self, length: int) -> int:
        """Pairs along an axis of a cell and a cell of its window, those beyond the axis among the latter."""
        end = -(-length // self.size) * self.size
        edges = [0, *range(self.shift or self.size, end, self.size), end]
        return sum((min(b, length) - min(a, length)) * (b - a) for a, b in pairwise(edges))

    def of(self, cell: Tensor) -> Tensor:
        """Window along an axis that each cell is in; after a shift the first and the last one are smaller."""
        offset = self.size - self.shift if self.shift else 0
        return (cell + offset).div(self.size, rounding_mode='floor')


@dataclass(frozen=True)
class Ghosts:
    """Cells that pad the map to whole windows: no queries, but keys that hold nothing but the bias of the projection.

    Attributes:
        centre: Row and column of each one's centre in half cells, and 1 for its side, window by window, (3, G).
        counts: Of each window, (W,).
    """

    centre: Tensor
    counts: Tensor

    @classmethod
    def of(cls, grid: StageGrid, layer: Layer, device: torch.device) -> 'Ghosts':
        rows, cols = grid.size
        ys, xs = (torch.arange(-(-n // layer.size) * layer.size, device=device) for n in (rows, cols))
        ghosts = ((ys[:, None] >= rows) | (xs >= cols)).nonzero().T
        window = layer.of(ghosts[0]) * layer.number(cols) + layer.of(ghosts[1])
        counts = window.bincount(minlength=layer.number(rows) * layer.number(cols))
        centre = torch.cat([2 * ghosts + 1, torch.ones_like(window)[None]])
        return cls(centre[:, window.argsort(stable=True)], counts)


def assign_windows(tokens: StageTokens, layer: Layer) -> tuple[Tensor, Tensor]:
    """Window of each token, that of its first cell, (T,), and how many each of the batch's windows has, (B * W,)."""
    (rows, cols), batch = tokens.grid.size, tokens.packing.shape[0]
    per_image = layer.number(rows) * layer.number(cols)
    window = tokens.image * per_image + layer.of(tokens.corner[0]) * layer.number(cols) + layer.of(tokens.corner[1])
    return window, window.bincount(minlength=batch * per_image)


def count_pairs(tokens: StageTokens, layer: Layer) -> Tensor:
    """Pairs of query and key of each image, ghosts among the keys, integers, shape (B,)."""
    lengths = assign_windows(tokens, layer)[1].unflatten(0, (tokens.packing.shape[0], -1))
    return (lengths * (lengths + Ghosts.of(tokens.grid, layer, lengths.device).counts)).sum(1)


class WindowGroup(NamedTuple):
    """Consecutive windows of equal lengths: how many they are, and queries, keys and ghosts of each."""

    windows: int
    queries: int
    keys: int
    ghosts: int

    @property
    def num_pairs(self) -> int:
        return self.windows * self.queries * (self.keys + self.ghosts)


@dataclass(frozen=True)
class Windows:
    """Who attends to whom in a layer: tokens by window, windows of equal lengths together.

    Attributes:
        layer: How they lie.
        image: Image of each token as they stand here, (T,).
        order: Which token stands where, (T,).
        lengths, begins: Tokens of each window, and where its first one stands, (B * W,).
        centre: Row and column of each token's centre in half cells, and how many cells its side has, (3, T).
        groups: Windows of equal lengths, in this order.
        offset: Of each pair of query and key, group by group as (count, queries, keys + ghosts): where
            :func:`half_step_table` has its bias, (P,).
        key_begins: Where the first key of each window stands, window by window, if the keys are others; else None.
    """

    layer: Layer
    image: Tensor
    order: Tensor
    lengths: Tensor
    begins: Tensor
    centre: Tensor
    groups: list[WindowGroup]
    offset: Tensor
    key_begins: Tensor | None

    @classmethod
    @torch.compiler.disable  # nothing to fuse, and shapes that depend on values
    def of(cls, tokens: StageTokens, layer: Layer, keys: 'Windows | None' = None) -> 'Windows':
        """Windows in which tokens attend to one another, or to the tokens of other windows of the same layer."""
        window, lengths = assign_windows(tokens, layer)
        ghosts = Ghosts.of(tokens.grid, layer, window.device)
        key_lengths = lengths if keys is None else keys.lengths
        shapes = torch.stack([lengths, key_lengths, ghosts.counts.repeat(tokens.packing.shape[0])])
        by_shape, groups = _group_by_shape(shapes)
        order = _inverse(by_shape)[window].argsort(stable=True)
        begins = _begins(lengths[by_shape])[_inverse(by_shape)]
        centre = tokens.centre[:, order]
        first_key, key_centre = (begins, centre) if keys is None else (keys.begins, keys.centre)
        offset = _pair_offsets(window[order], centre, shapes, first_key, key_centre, ghosts, layer.size)
        key_begins = None if keys is None else first_key[by_shape][lengths[by_shape] > 0]
        return cls(layer, tokens.image[order], order, lengths, begins, centre, groups, offset, key_begins)

    def take(self, x: Tensor, before: 'Windows | None') -> Tensor:
        """Bring tokens into this order from that of other windows, or from that of their candidates, (T, C)."""
        if before is self:
            return x
        return x.index_select(0, self.order if before is None else before._place[self.order])

    def put_back(self, x: Tensor) -> Tensor:
        """Bring tokens back into the order of their candidates, (T, C)."""
        return x.index_select(0, self._place)

    @cached_property
    def _place(self) -> Tensor:
        """Where each token stands, (T,)."""
        return _inverse(self.order)


def resize_bias_table(table: Tensor, count: int) -> Tensor:
    """Biases of one window for another, as Swin's authors resize them, shape (offsets, heads) -> (count, heads).

    Raises:
        ValueError: If the offsets are not those of a square window.
    """
    side = math.isqrt(len(table))
    if table.ndim != 2 or side**2 != len(table):
        got = f'got shape {tuple(table.shape)}'
        raise ValueError(f'relative_position_bias_table: wanted the offsets of a square window, {got}')
    grid = table.T.unflatten(1, (side, side)).unsqueeze(0)
    return F.interpolate(grid, size=math.isqrt(count), mode='bicubic')[0].flatten(1).T


def half_step_table(table: Tensor, window_size: int, coarse_weight: float = 0.0) -> Tensor:
    """Relative position biases at steps of half a cell, linearly between the trained ones.

    Args:
        table: The host's, ((2 M - 1)^2, heads).
        window_size: M.
        coarse_weight: Added for keys of 2 x 2 cells.

    Returns:
        For keys of one cell and then for those of 2 x 2, (heads, 2 * (4 M - 3)^2).
    """
    side = 2 * window_size - 1
    steps = table.T.unflatten(1, (side, side)).unsqueeze(0)
    steps = F.interpolate(steps, size=2 * side - 1, mode='bilinear', align_corners=True)[0].flatten(1)
    return torch.cat([steps, steps + coarse_weight], dim=1)


@torch.compiler.disable  # it would be compiled again for every set of windows
def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ghost: Tensor,
    windows: Windows,
    table: Tensor,
    scale: float,
    dropout: float = 0.0,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Attention within windows: one batched call for those of equal lengths.

    Args:
        query: As the tokens of ``windows`` stand, (T, heads, head_dims).
        key, value: As its keys stand, (T', heads, head_dims).
        ghost: Key and value of every ghost, (2, heads, head_dims).
        windows: Who attends to whom.
        table: Of :func:`half_step_table`.
        scale: Of the products.
        dropout: Probability of dropping an attention weight.
        key_mask: Which tokens are keys, boolean, (T,); None: all.

    Returns:
        Shape (T, heads, head_dims).
    """
    bias = table.to(query.dtype).index_select(1, windows.offset)
    ghost = ghost.to(key.dtype)
    outputs, at, window, pair = [], 0, 0, 0
    for group in windows.groups:
        count, length, num_keys, num_ghosts = group
        own = slice(at, at + count * length)
        if windows.key_begins is None:
            keys, values = (x[own].unflatten(0, (count, length)) for x in (key, value))
        else:
            first = windows.key_begins[window : window + count, None]
            places = (first + torch.arange(num_keys, device=first.device)).flatten()
            keys, values = (x.index_select(0, places).unflatten(0, (count, num_keys)) for x in (key, value))
        if num_ghosts:
            keys, values = (
                torch.cat([x, y.expand(count, num_ghosts, -1, -1)], dim=1)
                for x, y in zip((keys, values), ghost, strict=True)
            )
        own_bias = bias[:, pair : pair + group.num_pairs].unflatten(1, (count, length, -1)).transpose(0, 1)
        if key_mask is not None:
            is_key = F.pad(key_mask[own].unflatten(0, (count, length)), (0, num_ghosts), value=True)
            own_bias = own_bias.masked_fill(~is_key[:, None, None], -torch.inf)
        q, k, v = (x.transpose(1, 2) for x in (query[own].unflatten(0, (count, length)), keys, values))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=own_bias, dropout_p=dropout, scale=scale)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
        at, window, pair = own.stop, window + count, pair + group.num_pairs
    return torch.cat(outputs)


def _group_by_shape(shapes: Tensor) -> tuple[Tensor, list[WindowGroup]]:
    """Windows ordered by their numbers of queries, keys and ghosts, (3, W) -> (W,), and those that have queries."""
    base = int(shapes.max()) + 1
    code = (shapes[0] * base + shapes[1]) * base + shapes[2]
    order = code.argsort(stable=True)
    codes, counts = code[order][shapes[0, order] > 0].unique_consecutive(return_counts=True)
    pairs = zip(codes.tolist(), counts.tolist(), strict=True)
    return order, [WindowGroup(count, x // base**2, x // base % base, x % base) for x, count in pairs]


def _pair_offsets(
    window: Tensor, centre: Tensor, shapes: Tensor, first_key: Tensor, key_centre: Tensor, ghosts: Ghosts, size: int
) -> Tensor:
    """For each query with each key of its window, then each ghost: where :func:`half_step_table` has the bias, (P,).

    Args:
        window: Of each query, (T,).
        centre, key_centre: Of queries and keys, (3, T) and (3, T').
        shapes: Queries, keys and ghosts of each window, (3, B * W).
        first_key: Where the keys of each window begin, (B * W,).
        ghosts: Of one image.
        size: M.
    """
    _, num_keys, num_ghosts = shapes
    first_ghost = key_centre.shape[1] + _begins(ghosts.counts).repeat(len(num_ghosts) // len(ghosts.counts))
    key_centre = torch.cat([key_centre, ghosts.centre], dim=1)
    per_query = (num_keys + num_ghosts)[window]
    query = torch.arange(len(window), device=window.device).repeat_interleave(per_query)
    nth = torch.arange(len(query), device=window.device) - _begins(per_query)[query]
    window = window[query]
    key = nth + torch.where(nth < num_keys[window], first_key[window], (first_ghost - num_keys)[window])
    reach, side = 2 * size - 2, 4 * size - 3
    dy, dx = (centre[:2, query] - key_centre[:2, key]).clamp(-reach, reach) + reach
    return dy * side + dx + side**2 * (key_centre[2, key] - 1)


def _begins(lengths: Tensor) -> Tensor:
    """Where each of consecutive pieces begins, (n,)."""
    return lengths.cumsum(0) - lengths


def _inverse(order: Tensor) -> Tensor:
    """The permutation that undoes one, (n,)."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def _spread(regions: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Repeat rows and columns, cut to a size, (B, rows, cols) -> (B, h, w)."""
    return regions.repeat_interleave(factor, 1)[:, : size[0]].repeat_interleave(factor, 2)[:, :, : size[1]]
