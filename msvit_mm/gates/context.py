"""A gate of regions that sees more than the region: its neighbours, its edges, and where in the image it lies."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.checks import check_in
from ..ops.tiling import pad_to_regions, shrink
from .region import RegionGate


@MODELS.register_module()
class ContextGate(RegionGate):
    """The learned gate with context, for photographs: a small convolutional network with one vector per region.

    It works on the mean over 2 x 2 pixels. Per pixel it sees the raw colours, the same without the region's mean and
    divided by its deviation, and the blurred-edge energy. Convolutions of half a region's step, a residual one and one
    of two steps make a vector of each region; a last one joins it with its neighbours', its row and its distance from
    the middle column.

    Args:
        coarse_patch_size: Side of a region in pixels, a multiple of 8.
        hidden_dims: Channels of half a region, and of a region.
        initial_ratio: Mean decision at the start, in (0, 1); set it to the target.
        with_position: Whether the gate knows where in the image a region lies.
        frozen: Keep the gate as loaded: no gradient, and the backbone then trains on the active tokens alone.
        init_cfg: mmengine's recipe for the weights; applied after the backbone's own.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        coarse_patch_size: int = 32,
        hidden_dims: tuple[int, int] = (20, 24),
        initial_ratio: float = 0.75,
        with_position: bool = True,
        frozen: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(coarse_patch_size, init_cfg)
        if coarse_patch_size % 8:
            raise ValueError(f'coarse_patch_size must be a multiple of 8, got {coarse_patch_size}')
        check_in('(0, 1)', initial_ratio=initial_ratio)
        half, dims = hidden_dims
        step = coarse_patch_size // 4  # half a region on the shrunk image
        self.with_position = with_position
        self.halves = nn.Conv2d(7, half, step, stride=step)
        self.mix = nn.Conv2d(half, half, 3, padding=1)
        self.regions = nn.Conv2d(half, dims, 2, stride=2)
        self.context = nn.Conv2d(dims + 2 * with_position, dims, 3, padding=1)
        self.logit = nn.Conv2d(dims, 1, 1)
        assert self.logit.bias is not None
        nn.init.constant_(self.logit.bias, math.log(initial_ratio / (1 - initial_ratio)))
        self.requires_grad_(not frozen)

    def macs_per_region(self) -> int:
        per_half = self.halves.weight.numel() + self.mix.weight.numel()
        per_region = self.regions.weight.numel() + self.context.weight.numel() + self.logit.weight.numel()
        return 4 * per_half + per_region

    def shift_logits(self, offset: float) -> None:
        assert self.logit.bias is not None
        with torch.no_grad():
            self.logit.bias.add_(offset)

    def forward(self, images: Tensor) -> Tensor:
        self.check_channels(images)
        pixels = shrink(pad_to_regions(images, self.coarse_patch_size), 2)
        x = torch.cat([pixels, self._normalized(pixels), _edge_energy(pixels)], dim=1)
        x = F.gelu(self.halves(x))
        x = F.gelu(x + self.mix(x))
        x = F.gelu(self.regions(x))
        if self.with_position:
            x = torch.cat([x, _position(x)], dim=1)
        return self.logit(F.gelu(self.context(x))).squeeze(1)

    def _normalized(self, pixels: Tensor) -> Tensor:
        """Without the region's mean, divided by its deviation."""
        side = self.coarse_patch_size // 2
        mean = F.avg_pool2d(pixels, side)
        centred = pixels - _spread(mean, side)
        variance = F.avg_pool2d(centred.square(), side).mean(1, keepdim=True)
        return centred / _spread((variance + 1e-3).sqrt(), side)


def _spread(x: Tensor, side: int) -> Tensor:
    return x.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)


def _edge_energy(pixels: Tensor) -> Tensor:
    """Length of the gradient of a blurred image, (B, 3, H, W) -> (B, 1, H, W)."""
    blurred = F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    dy = F.pad(blurred.diff(dim=2), (0, 0, 0, 1))
    dx = F.pad(blurred.diff(dim=3), (0, 1, 0, 0))
    return (dx.square() + dy.square()).sum(1, keepdim=True).add(1e-12).sqrt()


def _position(x: Tensor) -> Tensor:
    """Row and distance from the middle column, each in [-1, 1], (B, C, rows, cols) -> (B, 2, rows, cols)."""
    rows, cols = x.shape[-2:]
    y = (torch.arange(rows, device=x.device, dtype=x.dtype) + 0.5) / rows * 2 - 1
    column = ((torch.arange(cols, device=x.device, dtype=x.dtype) + 0.5) / cols * 2 - 1).abs() * 2 - 1
    planes = torch.stack([y[:, None].expand(rows, cols), column[None].expand(rows, cols)])
    return planes.expand(len(x), -1, -1, -1)
