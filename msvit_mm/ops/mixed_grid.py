"""From packed tokens back to the grid of cells, with the gate's gradient where several scales were computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packing import Packing
from .tiling import Maps, Scale, Tiling, cell_slots, cell_tokens, nodes_among, nodes_to_cells, per_scale


class Detail(Protocol):
    """What the cells of nodes that stay whole have beside their tokens; ``scale`` 0 is that of the regions.

    Attributes:
        levels: Levels that have detail.
    """

    @property
    def levels(self) -> Sequence[int]: ...

    def embed(self, scale: int, image: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Pixels of the cells of nodes (n,), embedded, (n, s * s, hidden)."""

    def __call__(self, scale: int, level: int, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Detail of coarse tokens (n, C), (n, s * s, C)."""


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

    def source(self) -> Tensor:
        """The active token that covers each cell, an index into T, shape (B, h, w)."""
        token = cell_tokens(self.decisions, self.tiling) + self.num_extra_tokens
        return self.active.places().gather(1, token.flatten(1)).view_as(token)

    def scatter(
        self, levels: Sequence[tuple[Tensor, Tensor | None]], detail: Detail | None = None
    ) -> tuple[Tensor, ...]:
        """Give every cell what its token has: values of any meaning, features as well as class scores.

        Through ``gate_zero`` a gate value feels the contrast between what its node's cells have whole and split: the
        derivative of :math:`V_v = d_v c_v + (1 - d_v) V_{children}`, which is 0 within a node that stays whole.

        Args:
            levels: Values of the active tokens, shape (T, C), and of the counterfactual ones without gradient, (T', C)
                or None.
            detail: What the cells of a node that stays whole have beside its token.

        Returns:
            Shape (B, C, h, w) for each level, not contiguous: channels are innermost in memory.
        """
        source = self.source()
        nodes = self._embed_cells(self.active, detail)
        with torch.no_grad():
            further = self._embed_cells(self.counterfactual, detail)
        detailed_source = self._detailed_source(source, nodes)
        maps = []
        for i, (active, counterfactual) in enumerate(levels):
            if detail is None or i not in detail.levels:
                cells = F.embedding(source, active)  # (T, C) -> (B, h, w, C)
            else:
                # (n, s * s, C) -> (n * s * s, C)
                own = [(active[x.at].unsqueeze(1) + x.detail(detail, i, active)).flatten(0, 1) for x in nodes]
                cells = F.embedding(detailed_source, torch.cat([active, *own]))
            if self.gate_zero is not None:
                assert counterfactual is not None
                parts = [(active.detach(), nodes), (counterfactual, further)]
                cells = self._add_contrasts(cells, parts, i, detail)
            maps.append(cells.permute(0, 3, 1, 2))  # (B, h, w, C) -> (B, C, h, w)
        return tuple(maps)

    def _embed_cells(self, packing: Packing | None, detail: Detail | None) -> 'list[CoarseCells]':
        """Pixels of the cells of the nodes that may stay whole among packed tokens, scale by scale."""
        if detail is None or packing is None:
            return []
        found = []
        for i, scale in enumerate(self.tiling.scales[:-1]):
            at, image, row, col = nodes_among(packing, self.tiling, scale.side)
            found.append(CoarseCells(i, at, image, row, col, detail.embed(i, image, row, col)))
        return found

    def _detailed_source(self, source: Tensor, nodes: 'list[CoarseCells]') -> Tensor:
        """Where a cell finds its value once those of the coarse nodes' cells stand behind the tokens."""
        first = len(self.active.index)
        for own in nodes:
            scale = self.tiling.scales[own.scale]
            rank = source.new_full((len(source), scale.rows, scale.cols), -1)
            rank[own.image, own.row, own.col] = torch.arange(len(own.at), device=source.device)
            row, col, cell, count = self._cells_in_nodes(scale, source.device)
            rank = rank[:, row, col]
            source = torch.where(rank >= 0, first + rank * count + cell, source)
            first += count * len(own.at)
        return source

    def _cells_in_nodes(self, scale: Scale, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int]:
        """Row and column of each cell's node, (h, 1) and (1, w), place in it, (h, w), and the cells of a node."""
        side = scale.side // self.tiling.patch_size
        ys = torch.arange(self.tiling.cell_rows, device=device)[:, None]
        xs = torch.arange(self.tiling.cell_cols, device=device)[None, :]
        return ys // side, xs // side, ys % side * side + xs % side, side**2

    def _add_contrasts(
        self, cells: Tensor, parts: 'list[tuple[Tensor, list[CoarseCells]]]', level: int, detail: Detail | None
    ) -> Tensor:
        """Zeros whose gradient is the contrast of each node, added to the cells (B, h, w, C)."""
        (active, _), (counterfactual, _) = parts
        assert self.counterfactual is not None and self.gate_zero is not None
        table = self.active.unpack(active) + self.counterfactual.unpack(counterfactual)
        *whole_nodes, below = (table[:, slot + self.num_extra_tokens] for slot in cell_slots(self.tiling, cells.device))
        if detail is not None and level in detail.levels:
            for tokens, nodes in parts:
                for i, own_nodes in enumerate(nodes):
                    whole_nodes[i] = whole_nodes[i] + self._on_cells(own_nodes, detail, level, tokens)
        maps = per_scale(self.decisions), per_scale(self.gate_zero)
        contrasts: Tensor | None = None
        for scale, whole, stays, zero in reversed(list(zip(self.tiling.scales, whole_nodes, *maps, strict=False))):
            stays, zero = (nodes_to_cells(x, self.tiling, scale.side).unsqueeze(-1) for x in (stays, zero))
            own = zero.to(cells) * (whole - below)
            # what lies within a node that stays whole is not reached, and its gate values change nothing
            contrasts = own if contrasts is None else own + contrasts.masked_fill(stays.bool(), 0)
            below = torch.where(stays.bool(), whole, below)
        assert contrasts is not None
        return cells + contrasts

    @torch.no_grad()
    def _on_cells(self, nodes: 'CoarseCells', detail: Detail, level: int, tokens: Tensor) -> Tensor:
        """Detail of nodes at their cells, zeros elsewhere, (T, C) -> (B, h, w, C)."""
        scale = self.tiling.scales[nodes.scale]
        row, col, cell, count = self._cells_in_nodes(scale, tokens.device)
        table = tokens.new_zeros(self.active.shape[0], scale.rows, scale.cols, count, tokens.shape[-1])
        table[nodes.image, nodes.row, nodes.col] = nodes.detail(detail, level, tokens)
        return table[:, row, col, cell]


class CoarseCells(NamedTuple):
    """The n nodes of a scale among packed tokens: images, rows and columns (n,), and pixels (n, s * s, hidden)."""

    scale: int
    at: Tensor
    image: Tensor
    row: Tensor
    col: Tensor
    pixels: Tensor

    def detail(self, detail: Detail, level: int, tokens: Tensor) -> Tensor:
        """Detail of the nodes' cells on one level, (T, C) -> (n, s * s, C)."""
        return detail(self.scale, level, tokens[self.at], self.pixels).to(tokens.dtype)


class MixedTokens(NamedTuple):
    """Tokens that have not returned to the grid, for heads that work on tokens.

    Attributes:
        active: Shape (T, C).
        counterfactual: Further candidates without gradient, shape (T', C), or None.
        layout: Where they belong.
        images: What they are tokens of, shape (B, 3, H, W).
        place: Tokens of one place are one; None if none are.
    """

    active: Tensor
    counterfactual: Tensor | None
    layout: MixedGrid
    images: Tensor
    place: Tensor | None = None

    def distinct(self) -> tuple[Tensor, list[int], Tensor | None]:
        """One of the active tokens that are one, in their order.

        Returns:
            Tokens (T', C); how many each image has; for each of the T tokens its place among them, or None if all are.
        """
        if self.place is None:
            return self.active, self.layout.active.lengths, None
        kept, place = first_of_place(self.place).unique(return_inverse=True)
        images = self.layout.active.image_of_token()[kept]
        return self.active[kept], images.bincount(minlength=self.layout.active.shape[0]).tolist(), place


def first_of_place(place: Tensor) -> Tensor:
    """The first token of each token's place, (T,) -> (T,).

    Example:
        >>> first_of_place(torch.tensor([1, 0, 1, 2]))
        tensor([0, 1, 0, 3])
    """
    order = torch.arange(len(place), device=place.device)
    first = order.new_zeros(int(place.max()) + 1).scatter_reduce(0, place, order, 'amin', include_self=False)
    return first[place]


class TokenRows(NamedTuple):
    """Tokens that have not returned to the grid, as many in each image: what a static network hands to a head.

    Attributes:
        tokens: Shape (B, N, C).
        is_key: Which tokens the others attend to, boolean, shape (B, N); None if all are.
        scatter: Gives every cell what its token has, and the detail of a head's module or of None, (B, N, D) ->
            (B, D, h, w).
    """

    tokens: Tensor
    is_key: Tensor | None
    scatter: Callable[[Tensor, nn.Module | None], Tensor]
