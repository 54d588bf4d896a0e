"""Backbones whose gate decides regions: one coarse token or several fine ones each."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..gates import Gate, RegionGate, StatedGate, build_gate
from ..gates.region import rank_logits
from ..ops.gating import relaxed_gate_sample, threshold
from ..ops.tiling import Tiling
from .base import ChoiceMap, Costs, Features, GatedBackbone, image_size
from .steps import StepOutput


class Counterfactual(NamedTuple):
    """What the features would be with other scales, of the regions where both were computed.

    Attributes:
        drawn: Boolean: where they were, shape (B, rows, cols).
        swap: From the regions to swap, boolean (B, rows, cols), to features like the pass's own, without gradient.
    """

    drawn: Tensor
    swap: Callable[[Tensor], Features]


class GateOutput(NamedTuple):
    """What the gate said about a batch.

    Attributes:
        gate_logits: Real numbers, above 0 = coarse, shape (B, rows, cols).
        gate_values: Relaxed sample in [0, 1], with gradient where the gate learns, shape (B, rows, cols).
        decisions: 1 = coarse, 0 = fine, as executed, shape (B, rows, cols).
        num_tokens: Active patch tokens of each image, integers, shape (B,).
        costs: Multiply-adds of each image.
        region_size: Side of a region in pixels.
        counterfactual: In training, if the gate learns from the output mix; else None.
        steps: What steps between the layers did; None if there are none.
    """

    gate_logits: Tensor
    gate_values: Tensor
    decisions: Tensor
    num_tokens: Tensor
    costs: Costs
    region_size: int
    counterfactual: Counterfactual | None = None
    steps: StepOutput | None = None

    def maps(self) -> dict[str, ChoiceMap]:
        """``scale_map`` and ``gate_logits``, and the maps of the steps between the layers."""
        own = dict(
            scale_map=ChoiceMap(self.decisions, self.region_size, 'scale'),
            gate_logits=ChoiceMap(self.gate_logits, self.region_size, 'logits'),
        )
        return own if self.steps is None else own | dict(self.steps.maps)

    def loss_input(self) -> Tensor:
        """Gate values."""
        return self.gate_values

    def statistics(self) -> dict[str, Tensor]:
        """Mean and deviation over the images of the relaxed sample's coarse ratio."""
        coarse_ratios = threshold(self.gate_values).mean((1, 2))
        return dict(coarse_ratio=coarse_ratios.mean(), coarse_ratio_std=coarse_ratios.std(correction=0))

    def zero(self) -> Tensor:
        """Zero with a path to every parameter of the gate."""
        return 0 * self.gate_values.sum()


class RegionBackbone(GatedBackbone):
    """What backbones over regions share; a subclass computes.

    Attributes:
        patch_size, coarse_patch_size: Sides of a fine patch and of a region in pixels.
        grid_size: Rows and columns of regions at the image size that the backbone is laid out for.
        gate_temperature: Of the relaxed gate sample.
        token_budget: Active patch tokens of each image at prediction, or None.
    """

    gate_family = RegionGate
    default_gate: ClassVar[dict[str, Any]] = dict(type='ScaleGate')
    default_warmup_gate: ClassVar[dict[str, Any]] = dict(type='RandomGate', coarse_ratio=(0.0, 1.0), extremes=0.25)
    ratio_name = 'coarse_ratio'
    patch_size: int
    coarse_patch_size: int
    grid_size: tuple[int, int]
    gate_temperature: float = 1.0
    token_budget: float | None = None

    @property
    def region_size(self) -> int:
        return self.coarse_patch_size

    def tile(self, image_size: tuple[int, int]) -> Tiling:
        """Candidates of an image of (height, width) pixels."""
        return Tiling(*image_size, (self.patch_size, self.coarse_patch_size))

    def build_gate(self, config: dict[str, Any]) -> Gate:
        return build_gate(config, self.gate_family, coarse_patch_size=self.coarse_patch_size)

    def fill_gate_loss(self, config: dict[str, Any]) -> dict[str, Any]:
        return {'grid_size': self.grid_size, **config}

    def gate_statements(self, images: Tensor) -> Tensor:
        return relaxed_gate_sample(self.gate(images), self.gate_temperature, noise=self.gate.learnable)

    def draw_decisions(self, gate: Gate, images: Tensor) -> Tensor:
        return threshold(gate(images).sigmoid())

    def state_decisions(self, decisions: Tensor) -> Gate:
        return StatedGate(self.gate, decisions)

    def dense_decisions(self, images: Tensor) -> Tensor | None:
        """All fine, (B, rows, cols)."""
        tiling = self.tile(image_size(images))
        return images.new_zeros(len(images), tiling.rows, tiling.cols)

    def random_decisions(self, ratio: float, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Random regions are coarse; the images of a batch differ, evenly spread around the ratio.

        Args:
            ratio: Mean decision, in [0, 1]. A single image has this ratio; of several the outer ones come close to half
                way to 0 or 1, whichever is nearer.
            images: Shape (B, 3, H, W).

        Returns:
            Shape (B, rows, cols).

        Raises:
            ValueError: If the ratio is none.
        """
        if not 0 <= ratio <= 1:
            raise ValueError(f'coarse ratio: wanted a number in [0, 1], got {ratio}')
        batch, tiling = len(images), self.tile(image_size(images))
        places = (torch.arange(batch) + 0.5) / batch * 2 - 1  # in (-1, 1), of mean 0
        num_coarse = ((ratio + min(ratio, 1 - ratio) / 2 * places) * tiling.num_regions).round().view(-1, 1, 1)
        scores = torch.rand((batch, tiling.rows, tiling.cols), generator=generator)
        return (rank_logits(scores, num_coarse) > 0).to(images)

    def stand_ins(self, metrics: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        ratio = metrics['coarse_ratio']
        return {
            'random': dict(type='RandomGate', coarse_ratio=ratio),
            'edges': dict(type='EdgeGate', coarse_ratio=ratio),
            'all fine': dict(type='FixedGate', scale='fine'),
            'all coarse': dict(type='FixedGate', scale='coarse'),
        }

    def metainfo(self) -> dict[str, Any]:
        """Both patch sizes in pixels."""
        return dict(patch_size=self.patch_size, coarse_patch_size=self.coarse_patch_size)
