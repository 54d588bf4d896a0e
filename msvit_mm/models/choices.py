"""What a model asks about the choices of its gated backbone, one answer for each kind of backbone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.gating import hard_decisions, relaxed_gate_sample
from .gates import build_gate
from .losses import BudgetLoss
from .msvit import GateOutput, MSViT
from .pvt import NUM_ROWS
from .route_gates import BaseRouteGate, build_route_gate
from .routing import DynamicTokenRoutingTransformer, RouteOutput, row_sizes


@dataclass(frozen=True)
class RegionChoices:
    """Of :class:`MSViT`: a scale for every region."""

    backbone: MSViT

    def build_gate_loss(self, config: dict) -> nn.Module:
        return MODELS.build({'grid_size': self.backbone.grid_size, **config})

    def build_gate(self, config: dict) -> nn.Module:
        return build_gate(config, self.backbone.coarse_patch_size)

    def build_warmup_gate(self, config: dict | None) -> nn.Module:
        return self.build_gate(config or dict(type='RandomGate', coarse_ratio=(0.0, 1.0), extremes=0.25))

    def stand_in_gates(self, metrics: Mapping[str, float]) -> dict[str, dict]:
        """Configs by name of gates that learn nothing, to compare with one of these mean costs (ComplexityMetric)."""
        ratio = metrics['coarse_ratio']
        return {
            'random': dict(type='RandomGate', coarse_ratio=ratio),
            'edges': dict(type='EdgeGate', coarse_ratio=ratio),
            'all fine': dict(type='FixedGate', scale='fine'),
            'all coarse': dict(type='FixedGate', scale='coarse'),
        }

    def warmup_decisions(self, gate: nn.Module, images: Tensor) -> Tensor:
        """What a gate that does not learn decides for images (B, 3, H, W)."""
        return hard_decisions(gate(images).sigmoid())

    def loss_input(self, output: GateOutput, crops: Tensor | None) -> Tensor:
        """Gate values of the batch and of crops that only the gate sees, (n, rows, cols)."""
        if crops is None:
            return output.gate_values
        logits = self.backbone.gate(crops)
        values = relaxed_gate_sample(logits, self.backbone.gate_temperature, noise=self.backbone.gate.learnable)
        return torch.cat([output.gate_values, values])

    def sum_of_values(self, output: GateOutput) -> Tensor:
        return output.gate_values.sum()

    def statistics(self, output: GateOutput) -> dict[str, Tensor]:
        """Scalars for the training log."""
        coarse_ratios = hard_decisions(output.gate_values).mean((1, 2))
        return dict(coarse_ratio=coarse_ratios.mean(), coarse_ratio_std=coarse_ratios.std(correction=0))

    def count_macs(self, output: GateOutput, image_size: tuple[int, int]) -> Tensor:
        """Multiply-adds of the backbone for each image, (B,)."""
        return self.backbone.count_macs(output.num_tokens, image_size)

    def macs_of_parts(self, output: GateOutput, image_size: tuple[int, int]) -> dict[str, Tensor | int]:
        return self.backbone.macs_of_parts(output.num_tokens, image_size)

    def dense_macs_of_parts(self, image_size: tuple[int, int]) -> dict[str, Tensor | int]:
        return self.backbone.dense_macs_of_parts(image_size)

    def dense_num_tokens(self, image_size: tuple[int, int]) -> int:
        height, width = (-(-side // self.backbone.patch_size) for side in image_size)
        return height * width

    def further_costs(self, output: GateOutput) -> dict[str, Tensor]:
        """Costs of each image, (B,), that a prediction carries beside those of every gated model."""
        return {}

    def maps(self, output: GateOutput) -> dict[str, tuple[Tensor, int]]:
        """Maps that a prediction carries, (B, ..., rows, cols), and the side of their cells in pixels."""
        size = self.backbone.coarse_patch_size
        return dict(scale_map=(output.decisions, size), gate_logits=(output.gate_logits, size))

    def metainfo(self) -> dict:
        return dict(patch_size=self.backbone.patch_size, coarse_patch_size=self.backbone.coarse_patch_size)


@dataclass(frozen=True)
class RouteChoices:
    """Of :class:`DynamicTokenRoutingTransformer`: a way for every token. The same questions."""

    backbone: DynamicTokenRoutingTransformer

    def build_gate_loss(self, config: dict) -> nn.Module:
        """Build the loss.

        Raises:
            ValueError: If it is no BudgetLoss, or its budget is less than stem, entries and gates cost.
        """
        loss = MODELS.build(config)
        if not isinstance(loss, BudgetLoss):
            raise ValueError(f'gate_loss of routes must be a BudgetLoss, got {type(loss).__name__}')
        floor = self.backbone.cost_table(self.backbone.img_size).floor
        if loss.budget <= floor:
            raise ValueError(
                f'budget must lie above {floor:.3f}, what stem, entries and gates cost of PVTv2 for images of '
                f'{self.backbone.img_size[0]}x{self.backbone.img_size[1]} pixels, got {loss.budget}'
            )
        return loss

    def build_gate(self, config: dict) -> nn.Module:
        return build_route_gate(config, self.backbone.gate.edges)

    def build_warmup_gate(self, config: dict | None) -> nn.Module:
        return self.build_gate(config or dict(type='RandomRoutes', active_ratio=(0.0, 1.0)))

    def stand_in_gates(self, metrics: Mapping[str, float]) -> dict[str, dict]:
        """The random routes cost as much for images of ``img_size``, but for the gate, which they have not."""
        share = self.backbone.active_ratio_of(metrics['route_ratio'], self.backbone.img_size)
        return {
            'shuffled': dict(type='ShuffledRoutes', gate=self.backbone.gate),
            'random': dict(type='RandomRoutes', active_ratio=share),
            'all open': dict(type='FixedRoutes', routes='open'),
            'staircase': dict(type='FixedRoutes', routes='staircase'),
            'all closed': dict(type='FixedRoutes', routes='closed'),
        }

    def warmup_decisions(self, gate: BaseRouteGate, images: Tensor) -> dict:
        sizes, nothing = row_sizes(tuple(images.shape[-2:])), images.new_empty(len(images), 0, 0)
        decisions = {edge: hard_decisions(gate(edge, nothing, sizes[edge[1]]).sigmoid()) for edge in gate.edges}
        return {edge: x.unflatten(1, sizes[edge[1] + (edge[0] == 'merge')]) for edge, x in decisions.items()}

    def loss_input(self, output: RouteOutput, crops: Tensor | None) -> Tensor:
        """Cost of every image relative to PVTv2, (B,).

        Raises:
            ValueError: If there are crops for the gate alone, which routes do not know.
        """
        if crops is not None:
            raise ValueError(f'a gate of routes sees no images but those of the batch, got {len(crops)} gate crops')
        return output.cost_ratio

    def sum_of_values(self, output: RouteOutput) -> Tensor:
        return sum(values.sum() for values in output.gate_values.values())

    def statistics(self, output: RouteOutput) -> dict[str, Tensor]:
        ratios = output.cost_ratio.detach().float()
        scalars = dict(route_ratio=ratios.mean(), route_ratio_std=ratios.std(correction=0))
        for i in range(NUM_ROWS):
            shares = [x.mean() for (kind, row, _), x in output.decisions.items() if (kind, row) == ('row', i)]
            if shares:
                scalars[f'active_s{4 * 2**i}'] = torch.stack(shares).mean()
        return scalars

    def count_macs(self, output: RouteOutput, image_size: tuple[int, int]) -> Tensor:
        return output.macs.detach()

    def macs_of_parts(self, output: RouteOutput, image_size: tuple[int, int]) -> dict[str, Tensor | int]:
        table = self.backbone.cost_table(image_size)
        merges = [
            table.edges[edge][1] * x.flatten(1).sum(1) for edge, x in output.decisions.items() if edge[0] == 'merge'
        ]
        embedding = table.embedding + sum(merges)
        return dict(gate=table.gate, embedding=embedding, encoder=output.macs.detach() - table.gate - embedding)

    def dense_macs_of_parts(self, image_size: tuple[int, int]) -> dict[str, Tensor | int]:
        table = self.backbone.cost_table(image_size)
        return dict(gate=0, embedding=table.embedding, encoder=table.reference - table.embedding)

    def dense_num_tokens(self, image_size: tuple[int, int]) -> int:
        return sum(rows * cols for rows, cols in row_sizes(image_size))

    def further_costs(self, output: RouteOutput) -> dict[str, Tensor]:
        return dict(reference_gmacs=torch.full_like(output.macs.detach(), output.reference_macs / 1e9))

    def maps(self, output: RouteOutput) -> dict[str, tuple[Tensor, int]]:
        """``routes_s4`` ... ``routes_s32``, a channel per stage, and ``merges_s8`` ... ``merges_s32``, one per column.

        1 = open, 0 = closed, NaN where the routing space has no such edge.
        """
        maps = {}
        for kind, count, first in (('row', self.backbone.num_stages, 0), ('merge', self.backbone.num_stages + 1, 1)):
            for i in range(NUM_ROWS - first):
                gated = {j: x for (k, row, j), x in output.decisions.items() if (k, row) == (kind, i)}
                if gated:
                    absent = torch.full_like(next(iter(gated.values())), torch.nan)
                    stride = 4 * 2 ** (i + first)
                    stacked = torch.stack([gated.get(j, absent) for j in range(count)], dim=1)
                    maps[f'{"routes" if kind == "row" else "merges"}_s{stride}'] = (stacked, stride)
        return maps

    def metainfo(self) -> dict:
        return dict(node_depths={name: len(blocks) for name, blocks in self.backbone.nodes.items()})


def choices_of(backbone: nn.Module) -> RegionChoices | RouteChoices:
    """The questions that a model asks, for this backbone."""
    return RouteChoices(backbone) if isinstance(backbone, DynamicTokenRoutingTransformer) else RegionChoices(backbone)


@contextmanager
def gate_replaced(model: nn.Module, gate: dict) -> Iterator[None]:
    """The same network under another gate, for the duration of a ``with`` block.

    Args:
        model: A model over a gated backbone.
        gate: Config of the gate.
    """
    backbone = model.backbone
    own = backbone.gate
    backbone.gate = choices_of(backbone).build_gate(gate)
    try:
        yield
    finally:
        backbone.gate = own
