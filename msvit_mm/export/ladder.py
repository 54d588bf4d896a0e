"""Several budgets of one model, and its gate alone: a caller picks a network for each image by what the gate says.

The gate alone counts the regions below its threshold, of more than two scales the nodes that it splits; the smallest
network with as many fine regions, or more, is the one to run.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..gates import node_sides
from ..models.gated import GatedModel
from ..ops.gating import bound_logits
from ..ops.macs import count_macs
from ..ops.tiling import Tiling, per_scale


class Engine(NamedTuple):
    """A static network of the ladder.

    Attributes:
        name: ``'450'``, after the budget, or ``'masked'``, or ``'gate'``.
        network: To be exported.
        outputs: Names of its outputs.
        num_fine: Regions that are fine in every image, of more than two scales nodes that are split; None if the
            network has no budget.
        num_tokens: Patch tokens of every image; None if the network has no budget.
    """

    name: str
    network: nn.Module
    outputs: tuple[str, ...]
    num_fine: int | None = None
    num_tokens: int | None = None


class GateAlone(nn.Module):
    """A gate, and how many regions of each image it wants fine, of more than two scales how many nodes it splits.

    Args:
        gate: From images to logits, above 0 = coarse.
        tiling: Candidates of the images.
    """

    def __init__(self, gate: nn.Module, tiling: Tiling) -> None:
        super().__init__()
        self.gate = gate
        self.tiling = tiling

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it returns; of more than two scales the logits are ``'gate_logits_64'`` and so on."""
        sides = node_sides(self.tiling.patch_sizes)
        logits = [f'gate_logits_{side}' for side in sides] if len(sides) > 1 else ['gate_logits']
        return *logits, 'num_fine'

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) to logits (B, rows, cols) per scale but the smallest, and numbers (B,), int64."""
        gate_logits = self.gate(images)
        # a node is split if it and all around it are wanted fine
        splits = [(logits <= 0).sum((1, 2)) for logits in bound_logits(gate_logits, self.tiling)]
        return *per_scale(gate_logits), reduce(torch.add, splits)


def make_engines(
    model: GatedModel,
    image_size: tuple[int, int],
    budgets: Sequence[float | None],
    with_gate: bool = False,
    backbone: bool = False,
) -> list[Engine]:
    """The static networks of some budgets, in their order, and the gate's at the end.

    Args:
        model: A segmentor or a classifier over a gated backbone.
        image_size: (height, width) of the images in pixels.
        budgets: Active patch tokens of each image; None for the masked network without a budget.
        with_gate: Whether the gate alone follows.
        backbone: Only the backbone, to its features, in place of the whole model.

    Raises:
        ValueError: If there is no static form, the backbone alone returns neither maps nor class tokens, or two budgets
            have the same number of fine regions.
    """
    if backbone and model.token_head is not None:
        raise ValueError("export of a backbone alone: wanted out_type='featmap' or 'cls_token', got 'tokens'")
    engines = []
    for budget in budgets:
        network: Any = (model.backbone if backbone else model).static(image_size, budget)
        static = network if backbone else network.model.backbone
        name = 'masked' if budget is None else f'{budget:g}'
        fine, tokens = (getattr(static, word, None) for word in ('num_fine', 'num_tokens'))
        engines.append(Engine(name, network, output_names(model, backbone), fine, tokens))
    numbers = [engine.num_fine for engine in engines]
    if len(set(numbers)) < len(numbers):
        raise ValueError(
            f'token budgets: wanted each to give another number of fine regions, got {numbers} from {list(budgets)}'
        )
    if with_gate:
        gate = GateAlone(static.gate, static.tiling)
        engines.append(Engine('gate', gate, gate.outputs))
    return engines


def output_names(model: GatedModel, backbone: bool = False) -> tuple[str, ...]:
    """``'scores'``, or of the backbone alone one name per level, after its layer."""
    host: Any = model.backbone
    return tuple(f'layer{index}' for index in host.out_indices) if backbone else ('scores',)


@torch.no_grad()
def describe_engine(engine: Engine, file: str, images: Tensor, differences: Sequence[Tensor]) -> dict[str, Any]:
    """What a caller has to know of a file to pick it, with the multiply-adds per image, and how exact it is."""
    return dict(
        file=file,
        num_fine=engine.num_fine,
        num_tokens=engine.num_tokens,
        gmacs=count_macs(engine.network, images) / len(images) / 1e9,
        max_difference=max(x.abs().max().item() for x in differences),
    )


def list_engines(engines: Sequence[Engine], described: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The list of a ladder: ``engines``, those with the fewest fine regions first; ``gate`` and ``masked`` if there."""
    pairs = list(zip(engines, described, strict=True))
    ladder = sorted((row for engine, row in pairs if engine.num_fine is not None), key=lambda row: row['num_fine'])
    return dict(engines=ladder, **{engine.name: row for engine, row in pairs if engine.num_fine is None})
