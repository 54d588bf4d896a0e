"""MSViT with shapes that no value changes, so that it can be exported: a budget makes all images equally long.

Where every region splits into as many tokens, a budget of N tokens splits the same number k of regions in each image.
Which ones they are is a matter of indices, and gathering by indices has static shapes. What is computed is what
:class:`~msvit_mm.backbones.msvit.MSViT` computes, by its own layers, embedding and position table.
"""

import copy
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from ..ops.gating import bound_logits, budget_decisions
from ..ops.mixed_grid import TokenRows
from ..ops.packing import Packing
from ..ops.scales import by_scale
from ..ops.tiling import (
    Tiling,
    active_slots,
    as_maps,
    cell_slots,
    cell_tokens,
    nodes_to_cells,
    nodes_to_slots,
    pad_to_regions,
    per_scale,
    shrink,
    split_costs,
    to_squares,
)
from .coarse import detail_by_scale
from .embedding import embed_patches, make_positions
from .layers import EqualRows, Stream, run_layers

if TYPE_CHECKING:
    from .base import Features
    from .msvit import MSViT


class Arrangement(NamedTuple):
    """Which tokens run, and which cells they cover.

    Attributes:
        tokens: Positioned, shape (B, N, C).
        cells: Token of each cell, shape (B, h, w).
        is_key: Which tokens are keys, shape (B, N), or None if all are.
        coarse: Region of each token that may be coarse, shape (B, n).
        coarse_at: Which tokens those are, shape (B, n).
        detailed_cells: Like ``cells``, with the cells of those regions behind the N tokens, region by region.
        angles: By how much they turn, shape (B, N, head_dims / 2); None where positions are in the tokens.
    """

    tokens: Tensor
    cells: Tensor
    is_key: Tensor | None
    coarse: Tensor
    coarse_at: Tensor
    detailed_cells: Tensor
    angles: Tensor | None = None

    def scatter(self, values: Tensor, detail: Any = None, level: int = 0, pixels: Any = None) -> Tensor:
        """Give every cell what its token has, and its detail where the level has some, (B, N, D) -> (B, D, h, w).

        Args:
            detail: CellDetail, or None.
            pixels: What it sees of the cells, as :meth:`StaticMSViT.detail_pixels` returns it.
        """
        if detail is None or level not in detail.levels:
            return scatter_rows(values, self.cells)
        coarse = take(values, self.coarse_at)
        own = detail(level, coarse.flatten(0, 1), pixels.flatten(0, 1)).unflatten(0, coarse.shape[:2])
        cells = (coarse.unsqueeze(2) + own).flatten(1, 2)  # (B, n, s * s, D) -> (B, n * s * s, D)
        return scatter_rows(torch.cat([values, cells], dim=1), self.detailed_cells)


class StaticMSViT(nn.Module):
    """What the static forms share: a copy of the weights of an MSViT, for images of one size.

    Args:
        host: Whose weights are copied.
        tiling: Candidates of the images.
    """

    gate: Any  # this and what follows are the host's
    patch_embed: Any
    drop_after_pos: Any
    pre_norm: Any
    layers: Any
    coarse_pixels: Any  # CoarsePixels, of more than two scales each of them, or None
    detail: Any  # CellDetail, alike
    extra: Tensor
    cell_region: Tensor
    cell_slot: Tensor
    positions: Tensor | None
    angles: Tensor | None

    def __init__(self, host: 'MSViT', tiling: Tiling) -> None:
        super().__init__()
        parts = ('gate', 'patch_embed', 'drop_after_pos', 'pre_norm', 'layers', 'coarse_pixels', 'detail')
        for name in parts:
            setattr(self, name, copy.deepcopy(getattr(host, name)))
        self.last_norm = copy.deepcopy(host.ln1) if host.final_norm else nn.Identity()
        self.adapter, self.out_indices, self.out_type = host.adapter, host.out_indices, host.out_type
        self.num_extra_tokens, self.tiling = host.num_extra_tokens, tiling
        positions = None if host.pos_embed is None else make_positions(host, tiling).detach()
        extra = host.extra_tokens().detach()
        if positions is not None:
            extra = extra + positions[: self.num_extra_tokens]
        self.register_buffer('extra', extra.clone())  # (extra, C)
        side = tiling.region_size // tiling.patch_size
        coarse, *_, fine = cell_slots(tiling)
        self.register_buffer('cell_region', coarse.div(tiling.slots, rounding_mode='floor'))  # (h, w)
        self.per_region = side**2
        first = tiling.slots - self.per_region
        self.register_buffer('cell_slot', fine % tiling.slots - first)  # (h, w), in [0, side * side)
        everything = Packing.select(extra.new_ones(1, self.num_extra_tokens + tiling.num_regions * tiling.slots).bool())
        self.register_buffer('positions', self._of_candidates(positions))
        self.register_buffer('angles', self._of_candidates(host.angles(tiling, everything)))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> 'Features':
        """Features of images (B, 3, H, W), as the backbone returns them; ``'tokens'`` are TokenRows here."""
        self.check(images)
        gate_logits = self.gate(images)
        arranged = self.arrange(images, gate_logits)
        is_key = arranged.is_key
        with_extra = None if is_key is None else F.pad(is_key, (self.num_extra_tokens, 0), value=True)
        extra = self.extra.expand(len(images), -1, -1)
        tokens = self.pre_norm(self.drop_after_pos(torch.cat([extra, arranged.tokens], dim=1)))
        passed = run_layers(
            self.layers,
            self.adapter,
            Stream(tokens, EqualRows(with_extra), angles=self._with_extra(arranged.angles)),
            out_indices=self.out_indices,
            last_norm=self.last_norm,
        )
        if self.out_type == 'cls_token':
            return tuple(tokens[:, 0] for tokens, _ in passed.levels)
        rows = [tokens[:, self.num_extra_tokens :] for tokens, _ in passed.levels]
        if self.out_type == 'tokens':
            return tuple(TokenRows(x, is_key, partial(self.scatter, images, arranged)) for x in rows)
        pixels = self.detail_pixels(self.detail, images, arranged)
        return tuple(arranged.scatter(x, self.detail, level, pixels) for level, x in enumerate(rows))

    def scatter(self, images: Tensor, arranged: Any, values: Tensor, detail: nn.Module | None) -> Tensor:
        """Give every cell what its token has, and a head's detail or none, (B, N, D) -> (B, D, h, w)."""
        return arranged.scatter(values, detail, pixels=self.detail_pixels(detail, images, arranged))

    def detail_pixels(self, detail: nn.Module | None, images: Tensor, arranged: Any) -> Any:
        """What detail sees of the cells of coarse tokens, (B, 3, H, W) -> (B, n, s * s, hidden); None without any."""
        if detail is None:
            return None
        (own,) = detail_by_scale(detail, self.tiling)
        return own.pixels(take(self.cell_pixels(images), arranged.coarse))

    def _of_candidates(self, table: Tensor | None) -> Tensor | None:
        """What all candidates have, (extra + R * slots, ...) -> (R, slots, ...)."""
        if table is None:
            return None
        return table[self.num_extra_tokens :].unflatten(0, (self.tiling.num_regions, self.tiling.slots)).clone()

    def _with_extra(self, angles: Tensor | None) -> Tensor | None:
        """Those of class token and registers, which do not turn, before those of the patches."""
        return None if angles is None else F.pad(angles, (0, 0, self.num_extra_tokens, 0))

    def check(self, images: Tensor) -> None:
        """Check that images have the one size.

        Raises:
            ValueError: If not, or if torch.fx records this.
        """
        size = (self.tiling.height, self.tiling.width)
        if isinstance(images, Proxy):
            raise ValueError('images: wanted a tensor, got a Proxy of torch.fx; torch.export records this network')
        if tuple(images.shape[-2:]) != size:
            raise ValueError(f'images: wanted shape (B, 3, {size[0]}, {size[1]}), got {tuple(images.shape)}')

    @abstractmethod
    def arrange(self, images: Tensor, gate_logits: Any) -> Any:
        """Which tokens run: an Arrangement, or what another class here returns in its place."""

    def patches(self, images: Tensor) -> list[Tensor]:
        """Pixels of all candidates of each scale, the largest first, (B, R, k * k, 3, p, p)."""
        side = self.tiling.patch_size
        patches = []
        for scale in self.tiling.scales:
            small = shrink(pad_to_regions(images, self.tiling.region_size), scale.side // side)
            patches.append(nodes_to_slots(to_squares(small, side), scale.per_side))
        return patches

    def embed(self, patches: Tensor) -> Tensor:
        """Tokens of pixels, without positions, (B, N, 3, p, p) -> (B, N, C)."""
        return embed_patches(self.patch_embed, patches.flatten(0, 1)).unflatten(0, patches.shape[:2])

    def own_pixels(self, images: Tensor, coarse: Tensor) -> Tensor | float:
        """What coarse tokens have of all their pixels, (B, 3, H, W) and regions (B, n) -> (B, n, C)."""
        if self.coarse_pixels is None:
            return 0.0
        regions = to_squares(images, self.tiling.region_size)
        return self.coarse_pixels(take(regions.flatten(1, 2).flatten(2), coarse))

    def cell_pixels(self, images: Tensor) -> Tensor:
        """Pixels of the cells of all regions, (B, 3, H, W) -> (B, R, s * s, 3 * p * p)."""
        return self.patches(images)[-1].flatten(3)


class BudgetedMSViT(StaticMSViT):
    """A fixed number of regions is fine: class token, coarse tokens, fine tokens, in ordinary batched layers.

    Args:
        num_fine: Regions that are split in each image, k. The others, R - k, are coarse.
    """

    def __init__(self, host: 'MSViT', tiling: Tiling, num_fine: int) -> None:
        super().__init__(host, tiling)
        self.num_fine = num_fine

    @property
    def num_tokens(self) -> int:
        """Patch tokens of each image."""
        return self.tiling.num_regions + self.num_fine * (self.per_region - 1)

    def arrange(self, images: Tensor, gate_logits: Tensor) -> Arrangement:
        ranks = rank(gate_logits.flatten(1))
        order = ranks.argsort(dim=1)
        fine, coarse = order.split([self.num_fine, self.tiling.num_regions - self.num_fine], dim=1)
        large, small = self.patches(images)
        patches = torch.cat([take(large, coarse).flatten(1, 2), take(small, fine).flatten(1, 2)], dim=1)
        tokens = self.embed(patches)
        if self.positions is not None:
            tokens = tokens + self.choose(self.positions, coarse, fine)
        angles = None if self.angles is None else self.choose(self.angles, coarse, fine)
        own = self.own_pixels(images, coarse)
        if isinstance(own, Tensor):
            tokens = tokens + F.pad(own, (0, 0, 0, tokens.shape[1] - own.shape[1]))
        at = torch.arange(coarse.shape[1], device=images.device).expand_as(coarse)
        cells, detailed_cells = self.tokens_of_cells(ranks)
        return Arrangement(tokens, cells, None, coarse, at, detailed_cells, angles)

    def choose(self, table: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
        """What the tokens have of a table of candidates, (R, slots, D) -> (B, N, D)."""
        at_fine = F.embedding(fine, table[:, 1:].flatten(1)).unflatten(2, (self.per_region, -1)).flatten(1, 2)
        return torch.cat([F.embedding(coarse, table[:, 0]), at_fine], dim=1)

    def tokens_of_cells(self, ranks: Tensor) -> tuple[Tensor, Tensor]:
        """Token of each cell, coarse ones first in the order of their ranks, and with detail, (B, R) -> (B, h, w)."""
        rank = ranks.index_select(1, self.cell_region.flatten()).unflatten(1, self.cell_region.shape)
        num_coarse = self.tiling.num_regions - self.num_fine
        fine = num_coarse + rank * self.per_region + self.cell_slot
        is_fine, coarse = rank < self.num_fine, rank - self.num_fine
        detailed = self.num_tokens + coarse * self.per_region + self.cell_slot
        return torch.where(is_fine, fine, coarse), torch.where(is_fine, fine, detailed)


class MaskedMSViT(StaticMSViT):
    """Every candidate is a query and the active ones are keys: exact for any decisions, without any saving."""

    def arrange(self, images: Tensor, gate_logits: Tensor) -> Arrangement:
        decisions, slots = (gate_logits > 0).to(gate_logits), self.tiling.slots
        tokens = self.embed(torch.cat(self.patches(images), dim=2).flatten(1, 2))
        if self.positions is not None:
            tokens = tokens + self.positions.flatten(0, 1)
        angles = None if self.angles is None else self.angles.flatten(0, 1)
        coarse = torch.arange(self.tiling.num_regions, device=images.device).expand(len(images), -1)
        own = self.own_pixels(pad_to_regions(images, self.tiling.region_size), coarse)
        if isinstance(own, Tensor):
            tokens = tokens + F.pad(own.unsqueeze(2), (0, 0, 0, slots - 1)).flatten(1, 2)
        cells = cell_tokens(decisions, self.tiling)
        behind = tokens.shape[1] + self.cell_region * self.per_region + self.cell_slot
        detailed = torch.where(nodes_to_cells(decisions, self.tiling).bool(), behind, cells)
        is_key = active_slots(decisions, self.tiling).flatten(1)
        return Arrangement(tokens, cells, is_key, coarse, coarse * slots, detailed, angles)


class TreeArrangement(NamedTuple):
    """Which tokens of more than two scales run, and which cells they cover.

    Attributes:
        tokens, cells, is_key, angles: As in :class:`Arrangement`.
        cell_scales: Scale of each cell's token, 0 for regions, shape (B, h, w).
    """

    tokens: Tensor
    cells: Tensor
    is_key: Tensor | None
    angles: Tensor | None
    cell_scales: Tensor

    def scatter(self, values: Tensor, detail: Any = None, level: int = 0, pixels: Any = None) -> Tensor:
        """As :meth:`Arrangement.scatter`, with the detail of each scale."""
        maps = scatter_rows(values, self.cells)
        if detail is None or level not in by_scale(detail)[0].levels:
            return maps
        cells = maps.flatten(2).mT.flatten(0, 1)  # (B, D, h, w) -> (B * h * w, D)
        for i, (module, own) in enumerate(zip(by_scale(detail), pixels, strict=True)):
            added = module(level, cells, own.flatten(0, 1)).squeeze(1)
            added = added.unflatten(0, (len(maps), *maps.shape[2:])).permute(0, 3, 1, 2)
            maps = torch.where(self.cell_scales.unsqueeze(1) == i, maps + added, maps)
        return maps


class TreeMSViT(StaticMSViT):
    """More than two scales: a fixed number of nodes is split, so that images differ in which scales their tokens have.

    Hence what coarse tokens alone have, pixels and detail of their own, is computed for all nodes.

    Args:
        num_fine: Nodes that are split in each image; None: as many as the gate says, by masking.
    """

    slot_scale: Tensor

    def __init__(self, host: 'MSViT', tiling: Tiling, num_fine: int | None = None) -> None:
        super().__init__(host, tiling)
        self.num_fine = num_fine
        cost = 0 if num_fine is None else int(split_costs(tiling)[0][0, 0])
        self.num_tokens = None if num_fine is None else tiling.num_regions + num_fine * cost
        counts = torch.tensor([scale.per_side**2 for scale in tiling.scales])
        self.register_buffer('slot_scale', torch.arange(len(counts)).repeat_interleave(counts))

    def arrange(self, images: Tensor, gate_logits: tuple[Tensor, ...]) -> TreeArrangement:
        decisions = self.decide(gate_logits)
        active = active_slots(decisions, self.tiling).flatten(1)
        cells = cell_tokens(decisions, self.tiling)
        scales = self.slot_scale[cells % self.tiling.slots]
        patches = torch.cat(self.patches(images), dim=2).flatten(1, 2)
        positions, angles = (None if x is None else x.flatten(0, 1) for x in (self.positions, self.angles))
        own = self.own_of_all(images)
        is_key: Tensor | None = active
        if self.num_tokens is not None:
            place, count = torch.arange(active.shape[1], device=active.device), self.num_tokens
            order = torch.where(active, place, place + len(place)).argsort(dim=1)[:, :count]  # active ones first
            patches, is_key = take(patches, order), None
            own = own if own is None else take(own, order)
            positions, angles = (None if x is None else F.embedding(order, x) for x in (positions, angles))
            cells = (active.cumsum(1) - 1).gather(1, cells.flatten(1)).view_as(cells)
        tokens = self.embed(patches)
        for term in (positions, own):
            tokens = tokens if term is None else tokens + term
        return TreeArrangement(tokens, cells, is_key, angles, scales)

    def decide(self, gate_logits: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Decisions by the budget, or by the sign."""
        if self.num_fine is None:
            return tuple((logits > 0).to(logits) for logits in gate_logits)
        bounded = bound_logits(gate_logits, self.tiling)
        stays = (rank(torch.cat([x.flatten(1) for x in bounded], dim=1)) >= self.num_fine).to(bounded[0])
        parts = stays.split([x[0].numel() for x in bounded], dim=1)
        return tuple(part.view_as(x) for part, x in zip(parts, bounded, strict=True))

    def own_of_all(self, images: Tensor) -> Tensor | None:
        """What all candidates would have of their pixels as coarse tokens, (B, 3, H, W) -> (B, R * slots, C)."""
        if self.coarse_pixels is None:
            return None
        padded, parts = pad_to_regions(images, self.tiling.region_size), []
        for scale, pixels in zip(self.tiling.scales, by_scale(self.coarse_pixels), strict=False):
            nodes = to_squares(padded, scale.side)
            parts.append(pixels(nodes_to_slots(nodes.flatten(3), scale.per_side)))
        return F.pad(torch.cat(parts, dim=2), (0, 0, 0, self.per_region)).flatten(1, 2)

    def detail_pixels(self, detail: nn.Module | None, images: Tensor, arranged: TreeArrangement) -> list[Tensor] | None:
        """Pixels of all cells, embedded by the detail of each scale, (B, h * w, 1, hidden); None without any."""
        if detail is None:
            return None
        cells = (self.cell_region * self.per_region + self.cell_slot).flatten()
        pixels = self.cell_pixels(images).flatten(1, 2).index_select(1, cells).unsqueeze(2)
        return [own.pixels(pixels) for own in detail_by_scale(detail, self.tiling)]


def make_static(host: 'MSViT', image_size: tuple[int, int], token_budget: float | None = None) -> StaticMSViT:
    """The static form of an MSViT.

    Raises:
        ValueError: If regions of an image of this size, or splits of different scales, cost unequally, tokens attend
            within their regions alone or change between the layers, or no decisions keep the budget.
    """
    obstacles = {
        "attention_scope='image', got 'region'": host.attention_scope != 'image',
        f'no steps between the layers, got {len(host.between)}': host.between,
    }
    if met := [obstacle for obstacle, there in obstacles.items() if there]:
        raise ValueError(f'export: wanted {met[0]}')
    tiling = host.tile(image_size)
    is_tree = len(host.patch_sizes) > 2
    if token_budget is None:
        return TreeMSViT(host, tiling) if is_tree else MaskedMSViT(host, tiling)
    if image_size[0] % tiling.region_size or image_size[1] % tiling.region_size:
        raise ValueError(
            f'export: wanted an image size of multiples of {tiling.region_size} pixels, so that all regions cost the '
            f'same, got {tuple(image_size)}'
        )
    costs = torch.cat([cost.flatten() for cost in split_costs(tiling)])
    if costs.min() != costs.max():
        raise ValueError(
            f'export: wanted patch sizes of one factor, so that all splits cost the same, got {host.patch_sizes}'
        )
    num_splits = count_splits(tiling, token_budget)
    return TreeMSViT(host, tiling, num_splits) if is_tree else BudgetedMSViT(host, tiling, num_splits)


def count_splits(tiling: Tiling, token_budget: float) -> int:
    """Nodes that a budget splits in every image where all splits cost the same; of two scales these are regions.

    Example:
        >>> count_splits(Tiling(64, 96, (16, 32)), token_budget=13)  # 6 regions
        2
    """
    logits = as_maps([torch.zeros(1, scale.rows, scale.cols) for scale in tiling.scales[:-1]])
    return sum(int((x == 0).sum()) for x in per_scale(budget_decisions(logits, tiling, token_budget)))


def scatter_rows(values: Tensor, cells: Tensor) -> Tensor:
    """Give every cell what its token has, (B, N, D) and (B, h, w) -> (B, D, h, w)."""
    return take(values, cells.flatten(1)).unflatten(1, cells.shape[1:]).permute(0, 3, 1, 2)


def rank(values: Tensor) -> Tensor:
    """Rank of each value in its row, the lowest first, equal ones from left to right, (B, R) -> (B, R).

    By comparing all pairs: so equal values rank alike in every runtime, whatever its sort does with them.

    Example:
        >>> rank(torch.tensor([[3.0, 1.0, 3.0, 2.0]]))
        tensor([[2, 0, 3, 1]])
    """
    mine, other = values.unsqueeze(2), values.unsqueeze(1)
    earlier = torch.ones(values.shape[1], values.shape[1], dtype=torch.bool, device=values.device).tril(-1)
    return ((other < mine) | ((other == mine) & earlier)).sum(2)


def take(table: Tensor, index: Tensor) -> Tensor:
    """Rows of each image, (B, R, ...) and (B, k) -> (B, k, ...)."""
    begin = torch.arange(len(table), device=table.device)[:, None] * table.shape[1]
    rows = table.flatten(0, 1).index_select(0, (begin + index).flatten())
    return rows.unflatten(0, index.shape)
