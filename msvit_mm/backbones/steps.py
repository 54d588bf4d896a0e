"""What steps between the layers did to the tokens, in terms of the image: maps, and the class scores of early exits."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.mixed_grid import MixedGrid, first_of_place
from ..ops.packing import Packing
from ..ops.tiling import Tiling, token_areas
from .base import ChoiceMap
from .layers import Exit, Passed


class TokenLogits(NamedTuple):
    """Class scores of tokens in the middle of the encoder: ``logits`` (T, classes), and which of the T tokens covers a
    cell, -1 where it had left before, ``token`` (B, h, w).
    """

    logits: Tensor
    token: Tensor


class StepOutput(NamedTuple):
    """What the steps did.

    Attributes:
        maps: ``merge_map``: of each cell the first of the tokens that became the one that covers it, a number in the
            image, of kind ``'groups'``. ``exit_map``: layers through which its token went, of kind ``'layers'``.
        logits: Of the tokens of every exit.
        frozen: Class scores of the cells of tokens that left, (B, classes, h, w), and which these are, (B, 1, h, w);
            None unless asked for.
    """

    maps: Mapping[str, ChoiceMap]
    logits: tuple[TokenLogits, ...] = ()
    frozen: tuple[Tensor, Tensor] | None = None

    def freeze(self, seg_logits: Tensor) -> Tensor:
        """Class scores of pixels (B, classes, H, W) with those of the exits where tokens left, if asked for."""
        if self.frozen is None:
            return seg_logits
        size = seg_logits.shape[-2:]
        logits, left = (F.interpolate(x.to(seg_logits), size=size, mode='nearest') for x in self.frozen)
        return torch.where(left.bool(), logits, seg_logits)


def count_cells(tiling: Tiling, active: Packing) -> Tensor:
    """Cells that each active token covers, 1 for class tokens, shape (T,)."""
    side = tiling.patch_size
    whole = Tiling(tiling.cell_rows * side, tiling.cell_cols * side, tiling.patch_sizes)
    cells = token_areas(whole, active.index.device).flatten() // side**2
    extra = active.shape[1] - len(cells)
    return F.pad(cells, (extra, 0), value=1)[active.index % active.shape[1]].float()


def describe_steps(
    passed: Passed, layout: MixedGrid, *, merging: bool, exiting: bool, freezing: bool = False
) -> StepOutput:
    """What the steps of a pass did.

    Args:
        passed: What the layers returned.
        layout: Of the tokens that went in.
        merging: Whether there is a map of what merged.
        exiting: Whether there is one of what left.
        freezing: Whether class scores of what left are wanted.
    """
    source, side = layout.source(), layout.tiling.patch_size
    found = [TokenLogits(x.logits, _running(x, source)) for x in passed.last.exits]
    maps = {}
    if merging:
        place = passed.last.place
        group = source if place is None else first_of_place(place)[source]
        begin = torch.tensor([0, *layout.active.lengths[:-1]], device=source.device).cumsum(0)
        maps['merge_map'] = ChoiceMap(group - begin[:, None, None] - layout.num_extra_tokens, side, 'groups')
    left = [_at(x.leaves, tokens.token, False) for x, tokens in zip(passed.last.exits, found, strict=True)]
    if exiting:
        layers = torch.full_like(source, len(passed.sequences))
        for x, gone in zip(passed.last.exits, left, strict=True):
            layers = layers.masked_fill(gone, x.layer)
        maps['exit_map'] = ChoiceMap(layers, side, 'layers')
    frozen = None
    if freezing and found:
        logits = sum(_at(x.logits, x.token, 0.0) * gone.unsqueeze(-1) for x, gone in zip(found, left, strict=True))
        assert isinstance(logits, Tensor)
        frozen = logits.permute(0, 3, 1, 2), torch.stack(left).any(0).unsqueeze(1)
    return StepOutput(maps, tuple(found), frozen)


def _running(found: Exit, source: Tensor) -> Tensor:
    """Which token at an exit covers each cell, -1 where it had left before, (B, h, w)."""
    token = source if found.place is None else found.place[source]
    return token.masked_fill(token >= len(found.logits), -1)


def _at(values: Tensor, token: Tensor, otherwise: float) -> Tensor:
    """Values (T, ...) of the tokens of the cells, (B, h, w, ...)."""
    cells = values[token.clamp(min=0)]
    missing = (token < 0).view(*token.shape, *[1] * (cells.ndim - token.ndim))
    return cells.masked_fill(missing, otherwise)
