"""Gates of more than two scales: for every scale but the smallest one map of logits, of the largest nodes first."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.checks import check_in
from ..ops.tiling import Maps, Tiling, as_maps
from .base import CERTAIN, Gate, build_gate, gate_type
from .region import RegionGate, ScaleGate


@MODELS.register_module()
class NestedGate(RegionGate):
    """One gate for each scale but the smallest, which decides all nodes of its scale, reached or not.

    A gate that only two scales' networks have saved is taken for every scale on loading.

    Args:
        gates: Their configs, that of the largest nodes first.
        patch_sizes: Sides of the patches in pixels, ascending; the backbone fills them in.
        extremes: Share of the batches in which all nodes stay whole or all are split instead, half each; for warming a
            backbone up.
        init_cfg: mmengine's recipe for the weights.

    Raises:
        ValueError: If they are not as many as the scales but one, or one is no gate of regions.
    """

    nested = True
    examples = ()

    def __init__(
        self,
        gates: Sequence[dict[str, Any]],
        patch_sizes: Sequence[int] = (16, 32),
        extremes: float = 0.0,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        sides = node_sides(patch_sizes)
        super().__init__(sides[0], init_cfg)
        if len(gates) != len(sides):
            raise ValueError(f'gates: wanted {len(sides)}, for nodes of {sides} pixels, got {len(gates)}')
        check_in('[0, 1]', extremes=extremes)
        self.extremes = extremes
        pairs = zip(gates, sides, strict=True)
        self.gates = nn.ModuleList(build_gate(gate, RegionGate, coarse_patch_size=side) for gate, side in pairs)

    def forward(self, images: Tensor) -> Maps:
        """Normalised images (B, 3, H, W) of any size to gate logits (B, rows, cols), per scale."""
        maps = as_maps([gate(images) for gate in self.gates])
        if self.extremes and torch.rand(()).item() < self.extremes:
            logit = CERTAIN if torch.rand(()).item() < 0.5 else -CERTAIN
            return as_maps([torch.full_like(x, logit) for x in maps])
        return maps

    def macs(self, tiling: Tiling) -> int:
        return sum(gate.macs(_of_nodes(tiling, gate.coarse_patch_size)) for gate in self._gates)

    def shift_logits(self, offset: float) -> None:
        for gate in self._gates:
            gate.shift_logits(offset)

    @property
    def _gates(self) -> list[RegionGate]:
        gates: Any = self.gates
        return list(gates)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        for key in [x for x in state_dict if x.startswith(prefix) and not x.startswith(f'{prefix}gates.')]:
            value = state_dict.pop(key)
            for i in range(len(self.gates)):
                state_dict[f'{prefix}gates.{i}.{key.removeprefix(prefix)}'] = value
        super()._load_from_state_dict(state_dict, prefix, *others)


@MODELS.register_module()
class SharedScaleGate(ScaleGate):
    """The learned gate of all scales in one: a perceptron on the shrunk pixels of a node, and one bias for each scale.

    Args:
        patch_sizes: Sides of the patches in pixels, ascending; the backbone fills them in.
        sample_size: A node is averaged down to ``sample_size`` x ``sample_size`` pixels first.
        **words: Those of :class:`~msvit_mm.gates.ScaleGate`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    nested = True
    examples = (dict(initial_ratio=0.5),)

    def __init__(self, patch_sizes: Sequence[int] = (16, 32), sample_size: int = 8, **words: Any) -> None:
        sides = node_sides(patch_sizes)
        if sides[-1] % sample_size:
            raise ValueError(f'sample_size must divide the smallest node of {sides[-1]} pixels, got {sample_size}')
        super().__init__(coarse_patch_size=sides[0], sample_size=sample_size, **words)
        self.sides = sides
        self.scale_biases = nn.Parameter(torch.zeros(len(sides)), requires_grad=self.learnable)

    def forward(self, images: Tensor) -> Maps:
        """Normalised images (B, 3, H, W) of any size to gate logits (B, rows, cols), per scale."""
        return as_maps([self.logits(images, side) + self.scale_biases[i] for i, side in enumerate(self.sides)])

    def macs(self, tiling: Tiling) -> int:
        return sum(RegionGate.macs(self, _of_nodes(tiling, side)) for side in self.sides)


def build_region_gate(config: Mapping[str, Any], family: type[Gate], patch_sizes: Sequence[int]) -> Gate:
    """Build a gate of regions for patches of these sizes: of more than two, a gate of one scale for each.

    Its ``extremes``, if it has some, hold for all scales together.

    Raises:
        ValueError: If the config does not name a registered gate of this family.
    """
    sides = node_sides(patch_sizes)
    if getattr(gate_type(config, family), 'nested', False):
        return build_gate(dict(config), family, patch_sizes=tuple(patch_sizes))
    if len(sides) == 1:
        return build_gate(dict(config), family, coarse_patch_size=sides[0])
    words = dict(config)
    knows = 'extremes' in inspect.signature(gate_type(config, family)).parameters
    extremes = words.pop('extremes', 0.0) if knows else 0.0  # else the gate refuses the word
    return NestedGate([words] * len(sides), patch_sizes, extremes)


def node_sides(patch_sizes: Sequence[int]) -> tuple[int, ...]:
    """Sides in pixels of the nodes that are decided: of all scales but the smallest, the largest first.

    Example:
        >>> node_sides((16, 32, 64))
        (64, 32)
    """
    return tuple(patch_sizes[:0:-1])


def _of_nodes(tiling: Tiling, side: int) -> Tiling:
    """The tiling whose regions are the nodes of one scale."""
    return Tiling(tiling.height, tiling.width, (tiling.patch_size, side))
