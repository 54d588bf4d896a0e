"""The ways to run the layers on the active tokens: all give the same features, at other cost and with other gradients.

``packed``: the active tokens of all images as one sequence. ``counterfactual``: packed, and in a share of the regions
the tokens of the other scale as queries without backward: what each node would be, were its own decision the other.
``masked``: all tokens are queries, the active ones keys. ``padded`` and ``trimmed``: as masked, but with the active
tokens moved to the front of each image, in their order, and the batch cut to the most active tokens of any image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.gating import straight_through
from ..ops.packing import Packing
from ..ops.tiling import Maps, Tiling, nodes_to_slots, other_slots, per_scale, to_children, token_areas
from .layers import MaskedRows, PackedSequences, Passed, Stream


class Encoder(Protocol):
    """What an execution asks of a backbone."""

    def embed(self, images: Tensor, tiling: Tiling, chosen: Packing) -> Tensor:
        """Positioned tokens of the chosen candidates, (B, 3, H, W) -> (T, C)."""

    def angles(self, tiling: Tiling, chosen: Packing) -> Tensor | None:
        """By how much their queries and keys turn, (T, head_dims / 2), or None."""

    def run(self, active: Stream, queries: Stream | None = None, drop_path: Tensor | None = None) -> Passed:
        """The layers."""


@dataclass(frozen=True)
class Batch:
    """What an execution gets.

    Attributes:
        images: Shape (B, 3, H, W).
        tiling: Candidates of each image.
        decisions: As executed, shape (B, rows, cols), per scale but the smallest.
        slots: Which candidates are active under them, boolean, shape (B, R, slots).
        num_extra_tokens: Class tokens of each image, which are always active and come first.
        per_image: Sequences of each image that attend each among itself: 1, or one per region.
        gate_values: With gradient, if the task is to reach the gate, like ``decisions``; else None.
        by_output: Whether the gate learns where tokens return to the grid.
        by_mask: Whether it learns as the weight of a token as a key.
        share: Of the regions that get counterfactual tokens, in (0, 1].
        drop_path: Factors of stochastic depth, shape (layers, branches, B).
        cells: Cells that each active token covers, where steps between the layers ask; else None.
    """

    images: Tensor
    tiling: Tiling
    decisions: Maps
    slots: Tensor
    num_extra_tokens: int
    per_image: int
    gate_values: Maps | None
    by_output: bool
    by_mask: bool
    share: float
    drop_path: Tensor | None
    cells: Tensor | None = None

    @property
    def contrasting(self) -> bool:
        return self.gate_values is not None and self.by_output

    @property
    def inside(self) -> Tensor:
        """Candidates inside the image, (R, slots)."""
        return token_areas(self.tiling, self.images.device) > 0

    @property
    def active(self) -> Packing:
        return Packing.select(self.with_extra(self.slots))

    def with_extra(self, slots: Tensor, value: int = 1) -> Tensor:
        """Prepend the class token's place, (B, R, slots) -> (B, extra + R * slots)."""
        return F.pad(slots.flatten(1), (self.num_extra_tokens, 0), value=value)

    def rows(self, candidates: Tensor) -> Tensor:
        """Sequences as rows of a batch, (B, N, ...) -> (B * per_image, N / per_image, ...)."""
        return candidates.flatten(0, 1).unflatten(0, (self.per_image * len(candidates), -1))


class Encoding(NamedTuple):
    """What an execution returns.

    Attributes:
        active: Where the active tokens belong.
        levels: For each requested layer the active tokens (T, C), and the counterfactual ones (T', C) or None.
        counterfactual: Where those belong, if the gate learns from the output mix; else None.
        weights: How much the contrasts in a region weigh there, shape (B, rows, cols), or None.
        passed: What the layers returned, if packed; else None: none of the active tokens merged or left.
    """

    active: Packing
    levels: list[tuple[Tensor, Tensor | None]]
    counterfactual: Packing | None = None
    weights: Tensor | None = None
    passed: Passed | None = None


def run_packed(encoder: Encoder, batch: Batch) -> Encoding:
    """Active tokens alone."""
    active = batch.active
    passed = encoder.run(packed_stream(encoder, batch, active), drop_path=batch.drop_path)
    return Encoding(active, passed.levels, passed=passed)


def run_counterfactual(encoder: Encoder, batch: Batch) -> Encoding:
    """Active tokens, and of drawn regions the tokens of the other scale, unseen and without backward."""
    if not batch.contrasting or batch.gate_values is None:
        return run_packed(encoder, batch)
    active = batch.active
    drawn = draw_regions(per_scale(batch.gate_values)[0], batch.share)
    others = other_slots(batch.decisions, batch.tiling) & drawn.flatten(1).bool().unsqueeze(-1)
    chosen = Packing.select(batch.with_extra(others, value=0))
    stream = packed_stream(encoder, batch, active)
    with torch.no_grad():
        tokens = encoder.embed(batch.images, batch.tiling, chosen)
        angles = encoder.angles(batch.tiling, chosen)
        queries = Stream(tokens, PackedSequences.of(chosen, batch.per_image), angles=angles)
    passed = encoder.run(stream, queries, batch.drop_path)
    # unbiased: regions that were not drawn contribute nothing, the others in proportion more
    weights = drawn * (drawn.numel() / drawn.sum())
    return Encoding(active, passed.levels, chosen, weights, passed)


def run_masked(encoder: Encoder, batch: Batch, trim: bool = False) -> Encoding:
    """All candidates as queries, or with ``trim`` as many as the image with the most active tokens has."""
    active = batch.active
    is_active = batch.rows(batch.with_extra(batch.slots))
    length = is_active.sum(1).max() if trim else is_active.shape[1]
    is_inside = batch.rows(batch.with_extra(batch.inside.expand_as(batch.slots)))
    order = (is_active.long() + is_inside).argsort(dim=1, descending=True, stable=True)[:, :length]  # active first
    values = batch.gate_values
    key_mask = batch.rows(_key_weights(batch, values)) if values is not None and batch.by_mask else is_active
    chosen, weights = None, None
    if values is not None and batch.contrasting:
        kept = torch.zeros_like(is_active).scatter(1, order, True).view(active.shape)
        kept = kept[:, batch.num_extra_tokens :].view_as(batch.slots)
        chosen = Packing.select(batch.with_extra(~batch.slots & batch.inside & kept, value=0))
        first = per_scale(values)[0]
        weights = (kept | ~batch.inside).all(-1).view_as(first).to(first)
    candidates = Packing.select(torch.ones(active.shape, dtype=torch.bool, device=order.device))
    tokens = encoder.embed(batch.images, batch.tiling, candidates).unflatten(0, active.shape)
    image = torch.arange(len(order), device=order.device).div(batch.per_image, rounding_mode='floor')
    sequences = MaskedRows(key_mask.take_along_dim(order, dim=1), image.unsqueeze(-1))
    angles = encoder.angles(batch.tiling, candidates)
    if angles is not None:
        angles = batch.rows(angles.unflatten(0, active.shape)).take_along_dim(order.unsqueeze(-1), dim=1)
    stream = Stream(batch.rows(tokens).take_along_dim(order.unsqueeze(-1), dim=1), sequences, angles=angles)
    levels = [_split_rows(x, order, active, chosen) for x, _ in encoder.run(stream, drop_path=batch.drop_path).levels]
    return Encoding(active, levels, chosen, weights)


EXECUTIONS: dict[str, Callable[[Encoder, Batch], Encoding]] = {
    'masked': run_masked,
    'trimmed': partial(run_masked, trim=True),
    'padded': partial(run_masked, trim=True),
    'counterfactual': run_counterfactual,
    'packed': run_packed,
}


def draw_regions(like: Tensor, share: float) -> Tensor:
    """Draw regions, the same number in each image, 1 = drawn, (B, rows, cols)."""
    num_drawn = max(1, round(share * like[0].numel()))
    ranks = torch.rand_like(like).flatten(1).argsort(dim=1).argsort(dim=1)
    return (ranks < num_drawn).to(like.dtype).view_as(like)


def draw_at_all(share: float) -> float:
    """How much something counts that is drawn with this probability: 1 / share, or 0."""
    return (torch.rand((), device='cpu').item() < share) / share


def packed_stream(encoder: Encoder, batch: Batch, active: Packing) -> Stream:
    """The active tokens as the layers get them."""
    tokens = encoder.embed(batch.images, batch.tiling, active)
    angles = encoder.angles(batch.tiling, active)
    return Stream(tokens, PackedSequences.of(active, batch.per_image), cells=batch.cells, angles=angles)


def _key_weights(batch: Batch, gate_values: Maps) -> Tensor:
    """Straight-through weight of every candidate as a key, the mask path to the gate, shape (B, N).

    A node weighs as much as it stays whole and all nodes around it are split.
    """
    reached: Tensor | None = None
    parts: list[Tensor] = []
    for scale, values in zip(batch.tiling.scales, (*per_scale(gate_values), None), strict=True):
        inside = batch.inside[:, scale.first : scale.first + scale.per_side**2]
        if values is None:
            assert reached is not None
            parts.append(to_children(reached, scale.per_side) * inside.to(reached))
            break
        pad = (0, batch.tiling.cols * scale.per_side - scale.cols, 0, batch.tiling.rows * scale.per_side - scale.rows)
        stays = nodes_to_slots(F.pad(straight_through(values), pad), scale.per_side)
        above = None if reached is None else to_children(reached, scale.per_side) * inside.to(stays)
        parts.append(stays if above is None else above * stays)
        reached = 1 - stays if above is None else above * (1 - stays)
    return batch.with_extra(torch.cat(parts, dim=-1))


def _split_rows(x: Tensor, order: Tensor, active: Packing, chosen: Packing | None) -> tuple[Tensor, Tensor | None]:
    """Rows of a batch to packed tokens, the active ones and the further ones; ``order`` are their candidates."""
    num_candidates = active.shape[0] * active.shape[1] // len(order)
    places = torch.arange(order.numel(), device=order.device).view_as(order)
    places = order.new_zeros(len(order), num_candidates).scatter(1, order, places).flatten()
    x = x.flatten(0, 1)
    return x[places[active.index]], None if chosen is None else x.detach()[places[chosen.index]]
