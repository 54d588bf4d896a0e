"""Positioned tokens of the candidates that run, and of no others."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.packing import Packing
from ..ops.tiling import Tiling, position_table
from .layers import HostLayer

MAX_POSITION_TABLES = 8
Host: Any = object  # a host's model in the order of calls, which is not typed


def embed_patches(patch_embed: HostLayer, patches: Tensor) -> Tensor:
    """The host's patch embedding as a linear layer on pixels, (T, 3, p, p) -> (T, C).

    Its convolution takes 3.5 times as long on single patches.
    """
    projection, norm = patch_embed.projection, patch_embed.norm
    tokens = F.linear(patches.flatten(1), projection.weight.flatten(1), projection.bias)
    return tokens if norm is None else norm(tokens)


def insert_extra_tokens(tokens: Tensor, extra: Tensor, places: Tensor) -> Tensor:
    """Put the extra tokens (n, C) at places 0 to n - 1, the tokens in their order elsewhere, (T', C) -> (T, C)."""
    is_patch = places >= len(extra)
    row = torch.where(is_patch, is_patch.cumsum(0) + (len(extra) - 1), places)
    return torch.cat([extra, tokens]).index_select(0, row)


def add_registers(positions: Tensor, num_class_tokens: int, num_registers: int) -> Tensor:
    """Positions with zeros for registers behind the class token's, (1, N, C) -> (1, N + registers, C)."""
    if not num_registers:
        return positions
    zeros = positions.new_zeros(1, num_registers, positions.shape[2])
    return torch.cat([positions[:, :num_class_tokens], zeros, positions[:, num_class_tokens:]], dim=1)


def places_of(chosen: Packing) -> Tensor:
    """Candidate of its image that each packed token is, shape (T,)."""
    return chosen.index % chosen.shape[1]


def source_grid(count: int, own: tuple[int, int], stated: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of positions that come from elsewhere.

    As stated beside them. Else, of what they may be: a grid of the own proportions, or a square.

    Args:
        count: How many they are.
        own: Rows and columns of the network that they come into.
        stated: What the network that saved them said, if it did.

    Raises:
        ValueError: If they can be none of these, or both.

    Example:
        >>> source_grid(24, (4, 6), None), source_grid(9, (4, 6), None)
        ((4, 6), (3, 3))
    """
    if stated is not None:
        if math.prod(stated) != count:
            raise ValueError(f'pos_embed: wanted {" x ".join(map(str, stated))} positions, as stated, got {count}')
        return stated
    count = max(count, 0)
    side, scale = math.isqrt(count), math.sqrt(count / math.prod(own))
    like_own = round(own[0] * scale), round(own[1] * scale)
    grids = {(side, side)} if side**2 == count > 0 else set()
    if math.prod(like_own) == count > 0 and like_own[0] * own[1] == like_own[1] * own[0]:
        grids.add(like_own)
    if len(grids) != 1:
        got = ' or '.join(f'{rows} x {cols}' for rows, cols in sorted(grids)) or f'{count}, which are no square either'
        raise ValueError(
            f'pos_embed: wanted positions of a grid like {own[0]} x {own[1]}, got {got}; '
            'tools/convert_checkpoint.py --source-grid ROWS COLUMNS says which'
        )
    return grids.pop()


class PositionGrid(Host):
    """Mixin before a host of ``VisionTransformer``'s kind, whose state dict then states the grid of its positions."""

    patch_resolution: Any  # this and what follows are the host's
    num_class_tokens: int
    num_registers: int
    pos_embed: Any
    interpolate_mode: str
    resize_pos_embed: Callable[..., Tensor]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save, and state the grid of the positions beside, which their number does not tell."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, '_metadata'):
            destination._metadata.setdefault(prefix[:-1], {})['position_grid'] = tuple(self.patch_resolution)

    def _prepare_pos_embed(
        self, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *others: Any
    ) -> None:
        """Resize positions of another grid before they are loaded; the host takes every grid for a square one.

        Raises:
            ValueError: If one network has rotary positions and the other a position embedding, or registers differ.
        """
        if f'{prefix}patch_embed.projection.weight' in state_dict:
            self._check_kind(state_dict, prefix)
        positions = state_dict.get(f'{prefix}pos_embed')
        if not isinstance(positions, Tensor) or positions.ndim != 3 or self.pos_embed is None:
            return
        own, extra = tuple(self.patch_resolution), self.num_class_tokens
        if not extra and positions.shape[1] == math.prod(metadata.get('position_grid', own)) + 1:
            positions = positions[:, 1:]  # the first is a class token's, which this network has not
        grid = source_grid(positions.shape[1] - extra, own, metadata.get('position_grid'))
        if grid != own:
            positions = self.resize_pos_embed(positions, grid, own, self.interpolate_mode, extra)
        state_dict[f'{prefix}pos_embed'] = positions

    def _check_kind(self, state_dict: dict[str, Any], prefix: str) -> None:
        kinds = {True: 'rotary positions', False: 'a position embedding'}
        wanted, got = self.pos_embed is None, f'{prefix}pos_embed' not in state_dict
        if wanted != got:
            raise ValueError(f'pos_embed: wanted the weights of a network of {kinds[wanted]}, got one of {kinds[got]}')
        registers = state_dict.get(f'{prefix}reg_token')
        count = 0 if registers is None else registers.shape[1]
        if count != self.num_registers:
            raise ValueError(f'registers: wanted {self.num_registers}, got {count}')


class PositionTables:
    """Position embeddings of all candidates, kept for the last few image sizes where they need no gradient.

    They hold as long as the parameter has the same values. These are compared: a write to a parameter's ``.data``, as
    weight averaging does, changes no version. On a GPU nothing is kept, for it would wait for the comparison.
    """

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._tables: dict[Tiling, Tensor] = {}

    @torch.compiler.disable  # so that what is kept makes no difference to what is compiled
    def get(self, host: HostLayer, tiling: Tiling) -> Tensor:
        """Class token's first, shape (extra + R * slots, C)."""
        if host.pos_embed.is_cuda or (host.pos_embed.requires_grad and torch.is_grad_enabled()):
            return make_positions(host, tiling)
        with torch.inference_mode(False), torch.no_grad():  # what is kept must serve training, too
            source, known = host.pos_embed.detach(), self._source
            same_kind = known is not None and (known.device, known.dtype) == (source.device, source.dtype)
            if known is None or not (same_kind and torch.equal(known, source)):
                self._source, self._tables = source.clone(), {}
            if tiling not in self._tables:
                if len(self._tables) == MAX_POSITION_TABLES:
                    del self._tables[next(iter(self._tables))]
                self._tables[tiling] = make_positions(host, tiling)
            return self._tables[tiling]


def make_positions(host: HostLayer, tiling: Tiling) -> Tensor:
    """Positions of a host of ``VisionTransformer``'s kind for all candidates of a tiling, (extra + R * slots, C)."""
    extra, cells = host.num_class_tokens, (tiling.cell_rows, tiling.cell_cols)
    positions = host.resize_pos_embed(host.pos_embed, host.patch_resolution, cells, host.interpolate_mode, extra)
    table = position_table(positions[:, extra:], tiling).flatten(1, 2)
    return add_registers(torch.cat([positions[:, :extra], table], dim=1), extra, host.num_registers)[0]
