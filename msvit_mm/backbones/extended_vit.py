"""The host of plain vision transformers with what DINOv2 and DINOv3 have beyond it: registers and rotary positions."""

from collections.abc import Mapping
from typing import Any

import torch
from mmpretrain.models.backbones import VisionTransformer
from torch import Tensor, nn

from ..ops.packing import Packing
from ..ops.rotary import angles_of
from ..ops.tiling import Tiling, position_table
from .embedding import add_registers, places_of
from .layers import EqualRows, PretrainLayer, Stream, run_layers


class ExtendedViT(VisionTransformer):
    """mmpretrain's ``VisionTransformer`` with register tokens and rotary positions; without them it is the host.

    Args:
        num_registers: Further tokens that belong to no place, behind the class token.
        rope: ``dict(temperature=100.0)``: queries and keys turn with the centre of their patch, and nothing is added to
            the tokens. None: the host's position embedding.
        *args, **host: All arguments of the host.

    Raises:
        ValueError: If an argument is out of its range.
    """

    num_extra_tokens: int  # these are the host's, or as it has them
    pos_embed: Any
    reg_token: Any

    def __init__(self, *args: Any, num_registers: int = 0, rope: dict[str, Any] | None = None, **host: Any) -> None:
        super().__init__(*args, **host)
        if not isinstance(num_registers, int) or num_registers < 0:
            raise ValueError(f'num_registers: wanted a whole number of at least 0, got {num_registers}')
        self.num_registers, self.num_class_tokens = num_registers, self.num_extra_tokens
        self.num_extra_tokens = self.num_class_tokens + num_registers
        self.reg_token = None
        if num_registers:
            self.reg_token = nn.Parameter(torch.empty(1, num_registers, self.embed_dims))
            nn.init.trunc_normal_(self.reg_token, std=0.02)
            if self.frozen_stages > 0:
                self._freeze_stages()
        self.rope = None
        if rope is not None:
            self.rope = check_rope(rope, self.embed_dims // self.arch_settings['num_heads'])
            self.pos_embed = None

    @property
    def is_extended(self) -> bool:
        """Whether this is more than the host."""
        return self.rope is not None or self.num_registers > 0

    def extra_tokens(self) -> Tensor:
        """Class token and registers, shape (extra, C)."""
        kinds = [x[0] for x in (self.cls_token, self.reg_token) if x is not None]
        return torch.cat(kinds) if kinds else self.patch_embed.projection.weight.new_zeros(0, self.embed_dims)

    def angles(self, tiling: Tiling, chosen: Packing | None = None) -> Tensor | None:
        """By how much queries and keys of tokens turn, (T, head_dims / 2), or None where positions are added.

        A coarse token's centre is the mean over those of its cells in the image; class token and registers do not turn.

        Args:
            chosen: Of extra + R * slots candidates per image; by default the cells, in raster order.
        """
        if self.rope is None:
            return None
        weight = self.patch_embed.projection.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        sides = tiling.cell_rows, tiling.cell_cols
        ys, xs = ((torch.arange(n, device=weight.device, dtype=dtype) + 0.5) / n * 2 - 1 for n in sides)
        centres = torch.stack(torch.meshgrid(ys, xs, indexing='ij'), dim=-1).flatten(0, 1)  # (h * w, 2)
        if chosen is not None:
            centres = position_table(centres[None], tiling).flatten(0, 2)  # (R * slots, 2)
        angles = angles_of(centres, self.embed_dims // self.layers[0].attn.num_heads, **self.rope)
        angles = nn.functional.pad(angles, (0, 0, self.num_extra_tokens, 0))
        return angles if chosen is None else angles.index_select(0, places_of(chosen))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) to what ``out_type`` asks for, per entry of ``out_indices``."""
        if not self.is_extended:
            return super().forward(images)
        stream, size = self.begin(images)
        return tuple(self._format_output(x, size) for x in self.run_dense(stream))

    def begin(self, images: Tensor) -> tuple[Stream, tuple[int, int]]:
        """Tokens of the dense network, class token and registers first, and the grid of its patches."""
        tokens, size = self.patch_embed(images)
        x = torch.cat([self.extra_tokens().expand(len(tokens), -1, -1), tokens], dim=1)
        if self.pos_embed is not None:
            grid, mode, count = self.patch_resolution, self.interpolate_mode, self.num_class_tokens
            x = x + add_registers(
                self.resize_pos_embed(self.pos_embed, grid, size, mode, count), count, self.num_registers
            )
        side = self.patch_embed.projection.kernel_size[0]
        tiling = Tiling(size[0] * side, size[1] * side, (side, 2 * side))
        return Stream(self.pre_norm(self.drop_after_pos(x)), EqualRows(), angles=self.angles(tiling)), size

    def run_dense(self, stream: Stream) -> list[Tensor]:
        """The layers of the dense network, without stochastic depth."""
        norm = self.ln1 if self.final_norm else None
        passed = run_layers(self.layers, PretrainLayer(), stream, out_indices=self.out_indices, last_norm=norm)
        return [tokens for tokens, _ in passed.levels]

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter and how many there are; registers are as deep as the class token."""
        return super().get_layer_depth(param_name.replace(f'{prefix}reg_token', f'{prefix}cls_token'), prefix)

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if getattr(self, 'reg_token', None) is not None:
            self.reg_token.requires_grad = False


def check_rope(rope: dict[str, Any], head_dims: int) -> dict[str, Any]:
    """Words of rotary positions, all of them.

    Raises:
        ValueError: If one has no meaning, or a head's channels cannot turn.
    """
    words = dict(temperature=100.0) | rope if isinstance(rope, Mapping) else {}
    temperature = words.get('temperature')
    if len(words) != 1 or not isinstance(temperature, int | float) or not temperature > 0:
        raise ValueError(f'rope: wanted dict(temperature=...) above 0, got {rope}')
    if head_dims % 4:
        raise ValueError(f'rope: wanted heads of a multiple of 4 channels, got {head_dims}')
    return words
