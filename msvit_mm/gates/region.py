"""Gates of regions, the learned ones and their stand-ins: per region of an image one logit, above 0 = coarse."""

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.checks import check_in, check_range
from ..ops.tiling import Maps, Tiling, pad_to_regions, shrink, to_squares
from .base import CERTAIN, Gate, linear_macs

CHANNELS = 3
PIXEL_CHANNELS = {'raw': 3, 'normalized': 3, 'both': 6}
FIXED_LOGITS = {'fine': -CERTAIN, 'coarse': CERTAIN}


class RegionGate(Gate):
    """Interface of the gates of regions: per region of an image one logit, above 0 = coarse.

    Where there are more than two scales, one of them decides each: the regions are then the nodes of its scale.

    Args:
        coarse_patch_size: Side of a region in pixels; the backbone fills it in.
        init_cfg: mmengine's recipe for the weights.

    Attributes:
        nested: Whether it decides all scales and takes ``patch_sizes`` instead.
    """

    nested: ClassVar[bool] = False

    def __init__(self, coarse_patch_size: int = 32, init_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(init_cfg)
        self.coarse_patch_size = coarse_patch_size

    def num_regions(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of regions that cover images of shape (B, 3, H, W)."""
        height, width = images.shape[-2:]
        return -(-height // self.coarse_patch_size), -(-width // self.coarse_patch_size)

    def check_channels(self, images: Tensor) -> None:
        """Check that images are of the channels that a learned gate of pixels reads.

        Raises:
            ValueError: If not.
        """
        if images.shape[1] != CHANNELS:
            name = type(self).__name__
            raise ValueError(
                f'{name}: wanted images of {CHANNELS} channels, got {images.shape[1]}; StaticGate takes any'
            )

    def macs(self, tiling: Tiling) -> int:
        return tiling.num_regions * self.macs_per_region()

    def macs_per_region(self) -> int:
        """Multiply-adds for one region; rules without multiplications by weights count 0."""
        return 0

    def forward(self, images: Tensor) -> Maps:
        """Normalised images (B, 3, H, W) of any size to gate logits (B, rows, cols)."""
        raise NotImplementedError


@MODELS.register_module()
class ScaleGate(RegionGate):
    """The learned gate: a four-layer perceptron on the pixels of each region, and on nothing else.

    Args:
        coarse_patch_size: Side of a region in pixels.
        hidden_dims: Width of the three hidden layers.
        sample_size: A region is averaged down to ``sample_size`` x ``sample_size`` pixels first.
        pixels: What the perceptron sees: ``'raw'`` pixels, ``'normalized'`` ones (mean of each channel removed, divided
            by the region's deviation), or ``'both'``.
        initial_ratio: Mean decision at the start, in (0, 1); set it to the target.
        frozen: Keep the gate as loaded: no gradient, and the backbone then trains on the active tokens alone.
        init_cfg: mmengine's recipe for the weights: ``dict(type='Pretrained', checkpoint='classifier.pth',
            prefix='backbone.gate')`` takes the gate of another model. The backbone applies it after its own
            ``init_cfg``, so it prevails over a gate in the backbone's file.

    Raises:
        ValueError: If an argument is out of its range.

    Source: MSViT (arXiv 2307.02321), section 3.
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        dict(initial_ratio=0.5),
        dict(pixels='raw', sample_size=8),
        dict(frozen=True),
    )

    def __init__(
        self,
        coarse_patch_size: int = 32,
        hidden_dims: int = 64,
        sample_size: int = 16,
        pixels: str = 'both',
        initial_ratio: float = 0.75,
        frozen: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(coarse_patch_size, init_cfg)
        if pixels not in PIXEL_CHANNELS:
            raise ValueError(f'pixels must be one of {sorted(PIXEL_CHANNELS)}, got {pixels!r}')
        if coarse_patch_size % sample_size:
            raise ValueError(f'sample_size must divide coarse_patch_size {coarse_patch_size}, got {sample_size}')
        check_in('(0, 1)', initial_ratio=initial_ratio)
        self.sample_size = sample_size
        self.pixels = pixels
        dims = [PIXEL_CHANNELS[pixels] * sample_size**2, hidden_dims, hidden_dims, hidden_dims, 1]
        layers = []
        for in_dims, out_dims in pairwise(dims):
            layers += [nn.Linear(in_dims, out_dims), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        nn.init.constant_(self._last_bias, math.log(initial_ratio / (1 - initial_ratio)))
        self.requires_grad_(not frozen)

    @property
    def _last_bias(self) -> Tensor:
        last: Any = self.layers[-1]
        return last.bias

    def macs_per_region(self) -> int:
        return linear_macs(self.layers)

    def shift_logits(self, offset: float) -> None:
        with torch.no_grad():
            self._last_bias.add_(offset)

    def forward(self, images: Tensor) -> Maps:
        return self.logits(images, self.coarse_patch_size)

    def logits(self, images: Tensor, size: int) -> Tensor:
        """Logits of all squares of ``size`` pixels, (B, 3, H, W) -> (B, rows, cols)."""
        self.check_channels(images)
        images = shrink(pad_to_regions(images, size), size // self.sample_size)
        regions = to_squares(images, self.sample_size).flatten(4)  # (B, 3, H, W) -> (B, rows, cols, 3, k * k)
        return self.layers(self._inputs(regions).flatten(3)).squeeze(-1)

    def _inputs(self, regions: Tensor) -> Tensor:
        if self.pixels == 'raw':
            return regions
        centred = regions - regions.mean(-1, keepdim=True)
        normalized = centred / (centred.square().mean((-2, -1), keepdim=True) + 1e-3).sqrt()
        return normalized if self.pixels == 'normalized' else torch.cat([regions, normalized], dim=3)


@MODELS.register_module()
class StaticGate(RegionGate):
    """A learned pattern that no image changes: one logit per region position.

    Images of more or fewer regions get the pattern resized.

    Args:
        grid_size: Rows and columns of the pattern; the regions of the training images, so that none is shared.
        initial_ratio: Mean decision at the start, in (0, 1); set it to the target.
        coarse_patch_size: Side of a region in pixels.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> StaticGate(grid_size=(2, 3), initial_ratio=0.5)(torch.rand(2, 3, 64, 96)).shape
        torch.Size([2, 2, 3])
    """

    examples = (dict(grid_size=(2, 3)),)

    def __init__(
        self,
        grid_size: tuple[int, int] = (8, 8),
        initial_ratio: float = 0.75,
        coarse_patch_size: int = 32,
    ) -> None:
        super().__init__(coarse_patch_size)
        if len(grid_size) != 2 or min(grid_size) < 1:
            raise ValueError(f'grid_size must be (rows, cols), both at least 1, got {grid_size}')
        check_in('(0, 1)', initial_ratio=initial_ratio)
        self.logits = nn.Parameter(torch.full(tuple(grid_size), math.log(initial_ratio / (1 - initial_ratio))))

    def shift_logits(self, offset: float) -> None:
        with torch.no_grad():
            self.logits.add_(offset)

    def forward(self, images: Tensor) -> Tensor:
        size = self.num_regions(images)
        # antialiased, so that a smaller grid averages positions instead of skipping some
        logits = F.interpolate(self.logits[None, None].float(), size, mode='bilinear', antialias=True)  # none in half
        return logits[0].to(self.logits.dtype).expand(len(images), *size)


@MODELS.register_module()
class FixedGate(RegionGate):
    """All regions at one scale: the dense backbone (``'fine'``) or one of twice the patch size (``'coarse'``)."""

    examples = (dict(scale='fine'), dict(scale='coarse'))

    def __init__(self, scale: str = 'fine', coarse_patch_size: int = 32) -> None:
        super().__init__(coarse_patch_size)
        if scale not in FIXED_LOGITS:
            raise ValueError(f'scale must be one of {sorted(FIXED_LOGITS)}, got {scale!r}')
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return images.new_full((len(images), *self.num_regions(images)), FIXED_LOGITS[self.scale])


@MODELS.register_module()
class RandomGate(RegionGate):
    """Random regions are coarse, the same share of each image; what is no whole region is rounded at random.

    Args:
        coarse_ratio: Share of coarse regions in [0, 1], or a (low, high) range from which each batch draws its own.
        extremes: Share of the batches that are all fine or all coarse instead, half each; for warming a backbone up.
        coarse_patch_size: Side of a region in pixels.

    Raises:
        ValueError: If a share lies outside [0, 1].
    """

    examples = (dict(coarse_ratio=0.4), dict(coarse_ratio=(0.0, 1.0), extremes=0.5))

    def __init__(
        self,
        coarse_ratio: float | tuple[float, float] = 0.75,
        extremes: float = 0.0,
        coarse_patch_size: int = 32,
    ) -> None:
        super().__init__(coarse_patch_size)
        check_in('[0, 1]', extremes=extremes)
        self.low, self.high = check_range('[0, 1]', coarse_ratio=coarse_ratio)
        self.extremes = extremes

    def forward(self, images: Tensor) -> Tensor:
        place = torch.rand(()).item()
        ratio = self.low + (self.high - self.low) * place
        if torch.rand(()).item() < self.extremes:
            ratio = float(place > 0.5)
        rows, cols = self.num_regions(images)
        num_coarse = (ratio * rows * cols + torch.rand(len(images), 1, 1, device=images.device)).floor()
        return rank_logits(torch.rand(len(images), rows, cols, device=images.device), num_coarse)


@MODELS.register_module()
class EdgeGate(RegionGate):
    """The rule a learned gate has to beat: in each image the regions with the least blurred-edge energy are coarse.

    Args:
        coarse_ratio: Share of coarse regions of every image, in [0, 1].
        blur: Side in pixels, odd, of the box that is applied twice before the gradient, so that noise is no edge.
        coarse_patch_size: Side of a region in pixels.
    """

    def __init__(self, coarse_ratio: float = 0.75, blur: int = 5, coarse_patch_size: int = 32) -> None:
        super().__init__(coarse_patch_size)
        check_in('[0, 1]', coarse_ratio=coarse_ratio)
        if blur < 1 or blur % 2 == 0:
            raise ValueError(f'blur must be a positive odd number of pixels, got {blur}')
        self.coarse_ratio = coarse_ratio
        self.blur = blur

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(2):
            images = F.avg_pool2d(images, self.blur, stride=1, padding=self.blur // 2, count_include_pad=False)
        dy = F.pad(images.diff(dim=2), (0, 0, 0, 1))
        dx = F.pad(images.diff(dim=3), (0, 1, 0, 0))
        energy = (dx.square() + dy.square()).sum(1).sqrt()
        energy = F.avg_pool2d(energy, self.coarse_patch_size, ceil_mode=True, count_include_pad=False)
        return rank_logits(energy, round(self.coarse_ratio * energy[0].numel()))


def rank_logits(scores: Tensor, num_coarse: Tensor | int) -> Tensor:
    """Logits above 0 for exactly the ``num_coarse`` regions of each image with the lowest scores.

    Args:
        scores: Shape (B, rows, cols).
        num_coarse: Whole number for all images, or one for each, shape (B, 1, 1).

    Returns:
        Logits that fall as the score rises, in [-1, 1] and never 0, shape (B, rows, cols).

    Example:
        >>> rank_logits(torch.tensor([[[3.0, 1.0, 2.0, 9.0]]]), num_coarse=3)
        tensor([[[ 0.1250,  0.6250,  0.3750, -0.1250]]])
    """
    ranks = scores.flatten(1).argsort(dim=1).argsort(dim=1).view_as(scores)
    return ((num_coarse - 0.5 - ranks) / scores[0].numel()).to(scores.dtype)
