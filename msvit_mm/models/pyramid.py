"""A feature pyramid for plain vision transformers, which have one scale."""

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of maps (B, C, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """ViTDet's simple feature pyramid: every level from the last map of the backbone alone.

    The map of stride s becomes maps of strides s / 4, s / 2, s and 2 s, by transposed convolutions or max pooling; each
    then passes a 1 x 1 and a 3 x 3 convolution with a LayerNorm. Further levels are every second place of the one
    before.

    Args:
        in_channels: Of the backbone's map.
        out_channels: Of all levels.
        num_levels: At least 4; 5 for mmdet's region proposals.
        init_cfg: As for ``BaseModule``.

    Raises:
        ValueError: If the levels are fewer than 4.

    Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV 2022.

    Example:
        >>> import torch
        >>> neck = SimpleFeaturePyramid(in_channels=32, out_channels=16)
        >>> [tuple(x.shape[2:]) for x in neck((torch.rand(2, 32, 4, 6),))]
        [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    """

    def __init__(
        self, in_channels: int, out_channels: int = 256, num_levels: int = 5, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        if num_levels < 4:
            raise ValueError(f'SimpleFeaturePyramid: wanted at least 4 levels, got {num_levels}')
        half, quarter = in_channels // 2, in_channels // 4
        twice = [nn.ConvTranspose2d(in_channels, half, 2, stride=2) for _ in range(2)]
        again = nn.ConvTranspose2d(half, quarter, 2, stride=2)
        smaller = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.scales = nn.ModuleList(
            [nn.Sequential(twice[0], ChannelNorm(half), nn.GELU(), again), twice[1], nn.Identity(), smaller]
        )
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, bias=False),
                ChannelNorm(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                ChannelNorm(out_channels),
            )
            for channels in (quarter, half, in_channels, in_channels)
        )
        self.num_levels = num_levels

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The last of the backbone's maps (B, C, h, w) to ``num_levels`` maps, the largest first."""
        maps = [level(scale(inputs[-1])) for scale, level in zip(self.scales, self.levels, strict=True)]
        while len(maps) < self.num_levels:
            maps.append(maps[-1][..., ::2, ::2])
        return tuple(maps)
