"""From packed tokens back to the grid of cells, with the gate's gradient where several scales were computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .packing import Packing
from .tiling import Maps, Tiling, cell_slots, cell_tokens, nodes_to_cells, per_scale


class Detail(Protocol):
    """What the cells of coarse regions have beside their tokens.

    Attributes:
        levels: Levels that have detail.
    """

    @property
    def levels(self) -> Sequence[int]: ...

    def embed(self, image: Tensor, region: Tensor) -> Tensor:
        """Pixels of the cells of regions (n,) of images (n,), embedded, (n, s * s, hidden)."""

    def __call__(self, level: int, tokens: Tensor, pixels: Tensor) -> Tensor:
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
            detail: What the cells of a coarse region have beside their region's token.

        Returns:
            Shape (B, C, h, w) for each level, not contiguous: channels are innermost in memory.
        """
        source = self.source()
        pixels = self._embed_cells(self.active, detail)
        with torch.no_grad():
            further = self._embed_cells(self.counterfactual, detail)
        detailed_source = source if pixels is None else self._detailed_source(source, pixels)
        maps = []
        for i, (active, counterfactual) in enumerate(levels):
            own = _detail_of(detail, i, active, pixels)
            if own is None:
                cells = F.embedding(source, active)  # (T, C) -> (B, h, w, C)
            else:
                assert pixels is not None
                # (n, s * s, C) -> (n * s * s, C)
                own = (active[pixels.at].unsqueeze(1) + own.to(active.dtype)).flatten(0, 1)
                cells = F.embedding(detailed_source, torch.cat([active, own]))
            if self.gate_zero is not None:
                assert counterfactual is not None
                parts = [(active.detach(), pixels), (counterfactual, further)]
                cells = self._add_contrasts(cells, [(x, y, _detail_of(detail, i, x, y)) for x, y in parts])
            maps.append(cells.permute(0, 3, 1, 2))  # (B, h, w, C) -> (B, C, h, w)
        return tuple(maps)

    def _embed_cells(self, packing: Packing | None, detail: Detail | None) -> 'CoarseCells | None':
        """Pixels of the cells of the coarse regions among packed tokens."""
        if detail is None or packing is None:
            return None
        place = packing.index % packing.shape[1] - self.num_extra_tokens
        at = ((place >= 0) & (place % self.tiling.slots == 0)).nonzero().squeeze(1)
        image, region = packing.image_of_token()[at], place[at] // self.tiling.slots
        return CoarseCells(at, image, region, detail.embed(image, region))

    def _detailed_source(self, source: Tensor, coarse: 'CoarseCells') -> Tensor:
        """Where a cell finds its value once those of the coarse regions' cells stand behind the tokens."""
        rank = source.new_full((len(source), self.tiling.num_regions), -1)
        rank[coarse.image, coarse.region] = torch.arange(len(coarse.at), device=source.device)
        region, cell, count = self._cells_in_regions(source.device)
        own = len(self.active.index) + rank[:, region] * count + cell
        return torch.where(rank[:, region] >= 0, own, source)

    def _cells_in_regions(self, device: torch.device) -> tuple[Tensor, Tensor, int]:
        """Region of each cell and place in it, (h, w) each, and the cells of a region."""
        first, *_, cell = cell_slots(self.tiling, device)
        count = (self.tiling.region_size // self.tiling.patch_size) ** 2
        return first // self.tiling.slots, cell - first - (self.tiling.slots - count), count

    def _add_contrasts(self, cells: Tensor, parts: list[tuple[Tensor, 'CoarseCells | None', Tensor | None]]) -> Tensor:
        """Zeros whose gradient is the contrast of each node, added to the cells (B, h, w, C)."""
        (active, _, _), (counterfactual, _, _) = parts
        assert self.counterfactual is not None and self.gate_zero is not None
        table = self.active.unpack(active) + self.counterfactual.unpack(counterfactual)
        first, *larger, below = (
            table[:, slot + self.num_extra_tokens] for slot in cell_slots(self.tiling, cells.device)
        )
        if parts[0][2] is not None:
            region, cell, count = self._cells_in_regions(cells.device)
            extra = table.new_zeros(len(table), self.tiling.num_regions, count, table.shape[-1])
            for _, coarse, detail in parts:
                assert coarse is not None and detail is not None
                extra[coarse.image, coarse.region] = detail.detach().to(table.dtype)
            first = first + extra[:, region, cell]
        maps = per_scale(self.decisions), per_scale(self.gate_zero)
        nodes = [*zip(self.tiling.scales, [first, *larger], *maps, strict=False)]
        contrasts: Tensor | None = None
        for scale, whole, stays, zero in reversed(nodes):
            stays, zero = (nodes_to_cells(x, self.tiling, scale.side).unsqueeze(-1) for x in (stays, zero))
            own = zero.to(cells) * (whole - below)
            # what lies within a node that stays whole is not reached, and its gate values change nothing
            contrasts = own if contrasts is None else own + contrasts.masked_fill(stays.bool(), 0)
            below = torch.where(stays.bool(), whole, below)
        assert contrasts is not None
        return cells + contrasts


class CoarseCells(NamedTuple):
    """The n coarse regions among packed tokens: tokens, images and regions (n,), and pixels (n, s * s, hidden)."""

    at: Tensor
    image: Tensor
    region: Tensor
    pixels: Tensor


def _detail_of(detail: Detail | None, level: int, tokens: Tensor, coarse: CoarseCells | None) -> Tensor | None:
    """Detail of a level's coarse regions (n, s * s, C), or None where it has none."""
    if detail is None or coarse is None or level not in detail.levels:
        return None
    return detail(level, tokens[coarse.at], coarse.pixels)


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
