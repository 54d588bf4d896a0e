"""Backbones whose gate decides regions: one coarse token or several fine ones each."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..gates import Gate, RegionGate, StatedGate, build_region_gate, decide, node_sides
from ..gates.decide import rank_decisions
from ..gates.region import rank_logits
from ..losses.nested import NestedGateLoss
from ..ops.checks import check_in
from ..ops.gating import relaxed_gate_sample, threshold
from ..ops.tiling import Maps, Tiling, as_maps, map_scales, per_scale, reached_ratios
from .base import ChoiceMap, Costs, Features, GatedBackbone, image_size
from .steps import StepOutput


class Counterfactual(NamedTuple):
    """What the features would be with other scales, of the nodes where both were computed.

    Attributes:
        drawn: Boolean: which nodes these are, of those that are reached, shape (B, rows, cols), per scale but the
            smallest.
        swap: From the nodes to swap, like ``drawn``, to features like the pass's own, without gradient.
    """

    drawn: Maps
    swap: Callable[[Maps], Features]

    def swap_scale(self, scale: int, nodes: Tensor) -> Features:
        """Features with nodes of one scale swapped, boolean (B, rows, cols)."""
        maps = [torch.zeros_like(x) for x in per_scale(self.drawn)]
        return self.swap(as_maps([*maps[:scale], nodes, *maps[scale + 1 :]]))


class Decided(NamedTuple):
    """What the gate said about a batch, before anything is computed.

    Attributes:
        gate_logits, gate_values, decisions: As :class:`GateOutput` has them.
        mixed_values: The gate values through which the task teaches the gate; None where it does not.
        learning: Whether the gate learns in this pass.
    """

    gate_logits: Maps
    gate_values: Maps
    decisions: Maps
    mixed_values: Maps | None
    learning: bool


class GateOutput(NamedTuple):
    """What the gate said about a batch.

    Attributes:
        gate_logits: Real numbers, above 0 = coarse, shape (B, rows, cols); of more than two scales one map for each but
            the smallest, of the largest nodes first, and so are the next two.
        gate_values: Relaxed sample in [0, 1], with gradient where the gate learns, shape (B, rows, cols).
        decisions: 1 = coarse, 0 = fine, as executed, shape (B, rows, cols). Nodes within one that stays whole have one
            as well, which changes nothing.
        num_tokens: Active patch tokens of each image, integers, shape (B,).
        costs: Multiply-adds of each image.
        region_size: Side of a region in pixels.
        counterfactual: In training, if the gate learns from the output mix; else None.
        steps: What steps between the layers did; None if there are none.
        sides: Of the nodes of every map in pixels; empty: there is one, of regions.
    """

    gate_logits: Maps
    gate_values: Maps
    decisions: Maps
    num_tokens: Tensor
    costs: Costs
    region_size: int
    counterfactual: Counterfactual | None = None
    steps: StepOutput | None = None
    sides: tuple[int, ...] = ()

    def maps(self) -> dict[str, ChoiceMap]:
        """``scale_map`` and ``gate_logits``, and the maps of the steps between the layers.

        Of more than two scales ``scale_map_64`` and so on, by the nodes' side.
        """
        names = [f'_{side}' for side in self.sides] or ['']
        maps = {}
        for name, kind, own in (('scale_map', 'scale', self.decisions), ('gate_logits', 'logits', self.gate_logits)):
            cells = self.sides or (self.region_size,)
            for suffix, cell, data in zip(names, cells, per_scale(own), strict=True):
                maps[name + suffix] = ChoiceMap(data, cell, kind)
        return maps if self.steps is None else maps | dict(self.steps.maps)

    def loss_input(self) -> Maps:
        """Gate values."""
        return self.gate_values

    def statistics(self) -> dict[str, Tensor]:
        """Mean and deviation over the images of the relaxed sample's coarse ratio, the mean over the scales.

        Of more than two scales also ``coarse_ratio_64`` and so on: of each among the nodes that are reached.
        """
        sample = map_scales(threshold, self.gate_values)
        coarse_ratios = torch.stack([x.mean((1, 2)) for x in per_scale(sample)]).mean(0)
        names = [f'coarse_ratio_{side}' for side in self.sides]
        ratios = dict(zip(names, reached_ratios(sample, self.sides), strict=True)) if names else {}
        return dict(coarse_ratio=coarse_ratios.mean(), coarse_ratio_std=coarse_ratios.std(correction=0)) | ratios

    def zero(self) -> Tensor:
        """Zero with a path to every parameter of the gate."""
        return 0 * torch.stack([x.sum() for x in per_scale(self.gate_values)]).sum()


def coarse_ratios(maps: Mapping[str, Tensor]) -> dict[str, float]:
    """Ratios of an image from its scale maps (1, rows, cols) by name, the largest nodes first; none without a map.

    Example:
        >>> coarse_ratios(dict(scale_map=torch.tensor([[[1.0, 0.0, 1.0, 1.0]]])))
        {'coarse_ratio': 0.75}
    """
    if not maps:
        return {}
    ratio = dict(coarse_ratio=sum(x.mean().item() for x in maps.values()) / len(maps))
    if len(maps) == 1:
        return ratio
    sides = [int(name.rpartition('_')[2]) for name in maps]  # scale_map_64
    ratios = zip(sides, reached_ratios(tuple(maps.values()), sides), strict=True)
    return ratio | {f'coarse_ratio_{side}': x.item() for side, x in ratios}


class RegionBackbone(GatedBackbone):
    """What backbones over regions share; a subclass computes.

    Attributes:
        patch_size, coarse_patch_size: Sides of a fine patch and of a region in pixels.
        patch_sizes: Of all scales, ascending.
        grid_size: Rows and columns of regions at the image size that the backbone is laid out for.
        gate_temperature: Of the relaxed gate sample.
        gate_gradient: Path from the task loss to the gate: ``'output'``, ``'mask'`` or ``'both'``.
        token_budget: Active patch tokens of each image at prediction, or None.
        train_ratios: The (low, high) range of coarse ratios that training draws from, or None.
    """

    gate_family = RegionGate
    default_gate: ClassVar[dict[str, Any]] = dict(type='ScaleGate')
    default_warmup_gate: ClassVar[dict[str, Any]] = dict(type='RandomGate', coarse_ratio=(0.0, 1.0), extremes=0.25)
    ratio_name = 'coarse_ratio'
    patch_size: int
    coarse_patch_size: int
    grid_size: tuple[int, int]
    gate_temperature: float = 1.0
    gate_gradient: str = 'output'
    token_budget: float | None = None
    train_ratios: tuple[float, float] | None = None

    @property
    def patch_sizes(self) -> tuple[int, ...]:
        return self.patch_size, self.coarse_patch_size

    @property
    def region_size(self) -> int:
        return self.coarse_patch_size

    def tile(self, image_size: tuple[int, int]) -> Tiling:
        """Candidates of an image of (height, width) pixels."""
        return Tiling(*image_size, self.patch_sizes)

    def _decide(self, images: Tensor, tiling: Tiling, given: Maps | None) -> Decided:
        """Ask the gate; given decisions overrule it, as do the ratios of training and the budget of prediction.

        Raises:
            ValueError: If given decisions have the wrong shape or values, or no decisions keep ``token_budget``.
        """
        learning = self.training and self.gate.learnable
        logits, stated = self.gate(images), given
        if given is None and self.training and self.train_ratios is not None:
            stated = rank_decisions(logits, *self.train_ratios)
        budget = None if self.training else self.token_budget
        values, decisions = decide(logits, tiling, self.gate_temperature, learning, budget, stated)
        return Decided(logits, values, decisions, values if learning and given is None else None, learning)

    def init_weights(self) -> None:
        """Apply the backbone's ``init_cfg``, then the gate's: it prevails over a gate in the backbone's file."""
        host: Any = super()
        gate, first = self.gate, not host.is_init
        gate.is_init = True  # mmengine would initialise it before it loads the backbone's file
        host.init_weights()
        if first:
            gate.is_init = False
            gate.init_weights()

    def build_gate(self, config: dict[str, Any]) -> Gate:
        return build_region_gate(config, self.gate_family, self.patch_sizes)

    def build_gate_loss(self, config: dict[str, Any]) -> nn.Module:
        """Build a loss on gate values; of more than two scales one for each but the smallest, of the same words."""
        scales = self.tile(self.img_size).scales[:-1] if len(self.patch_sizes) > 2 else ()
        is_nested = config.get('type') == 'NestedGateLoss'
        if not scales:
            if is_nested:
                raise ValueError('gate_loss: wanted the one of two scales, got NestedGateLoss, for more than two')
            return super().build_gate_loss(config)
        configs = config['losses'] if is_nested else [config] * len(scales)
        grids = [dict(grid_size=(scale.rows, scale.cols)) for scale in scales]
        if len(configs) != len(grids):
            raise ValueError(f'losses: wanted {len(grids)}, for scales of {grids}, got {len(configs)}')
        return NestedGateLoss(
            [super(RegionBackbone, self).build_gate_loss(a | b) for a, b in zip(grids, configs, strict=True)]
        )

    def fill_gate_loss(self, config: dict[str, Any]) -> dict[str, Any]:
        return {'grid_size': self.grid_size, **config}

    def gate_statements(self, images: Tensor) -> Maps:
        sample = partial(relaxed_gate_sample, temperature=self.gate_temperature, noise=self.gate.learnable)
        return map_scales(sample, self.gate(images))

    def draw_decisions(self, gate: Gate, images: Tensor) -> Maps:
        return map_scales(lambda logits: threshold(logits.sigmoid()), gate(images))

    def state_decisions(self, decisions: Maps) -> Gate:
        return StatedGate(self.gate, decisions)

    def dense_decisions(self, images: Tensor) -> Maps | None:
        """All fine, (B, rows, cols), per scale but the smallest."""
        scales = self.tile(image_size(images)).scales[:-1]
        return as_maps([images.new_zeros(len(images), scale.rows, scale.cols) for scale in scales])

    def random_decisions(self, ratio: float, images: Tensor, generator: torch.Generator | None = None) -> Maps:
        """Random nodes of each scale are coarse; the images of a batch differ, evenly spread around the ratio.

        Args:
            ratio: Mean decision, in [0, 1]. A single image has this ratio; of several the outer ones come close to half
                way to 0 or 1, whichever is nearer.
            images: Shape (B, 3, H, W).

        Returns:
            Shape (B, rows, cols), per scale but the smallest.

        Raises:
            ValueError: If the ratio is none.
        """
        check_in('[0, 1]', ratio=ratio)
        batch, scales = len(images), self.tile(image_size(images)).scales[:-1]
        places = (torch.arange(batch) + 0.5) / batch * 2 - 1  # in (-1, 1), of mean 0
        shares, maps = ratio + min(ratio, 1 - ratio) / 2 * places, []
        for scale in scales:
            num_coarse = (shares * (scale.rows * scale.cols)).round().view(-1, 1, 1)
            scores = torch.rand((batch, scale.rows, scale.cols), generator=generator)
            maps.append((rank_logits(scores, num_coarse) > 0).to(images))
        return as_maps(maps)

    def stand_ins(self, metrics: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        ratio = metrics['coarse_ratio']
        names = [f'coarse_ratio_{side}' for side in node_sides(self.patch_sizes)]
        random = dict(type='RandomGate', coarse_ratio=ratio)
        if set(names) <= set(metrics):  # among the nodes that are reached: as many tokens as the gate's
            random = dict(type='NestedGate', gates=[dict(type='RandomGate', coarse_ratio=metrics[x]) for x in names])
        return {
            'random': random,
            'edges': dict(type='EdgeGate', coarse_ratio=ratio),
            'all fine': dict(type='FixedGate', scale='fine'),
            'all coarse': dict(type='FixedGate', scale='coarse'),
        }

    def metainfo(self) -> dict[str, Any]:
        """All patch sizes in pixels."""
        sizes = dict(patch_size=self.patch_size, coarse_patch_size=self.coarse_patch_size)
        return sizes | dict(patch_sizes=self.patch_sizes)
