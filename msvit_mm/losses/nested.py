"""The loss of gates of more than two scales."""

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.tiling import Maps, per_scale


@MODELS.register_module()
class NestedGateLoss(nn.Module):
    """A loss on the gate values of every scale but the smallest, each with what it learns; they add up.

    What a loss of two scales has learned is taken for every scale on loading, brought to its grid.

    Args:
        losses: One for each of these scales, that of the largest nodes first, all of one weight.

    Raises:
        ValueError: If their weights differ.
    """

    takes = 'gate_values'

    def __init__(self, losses: Sequence[nn.Module]) -> None:
        super().__init__()
        weights = [loss.weight for loss in losses]
        if len(set(weights)) > 1:
            raise ValueError(f'losses: wanted one weight, which the schedule moves for all of them, got {weights}')
        self.losses = nn.ModuleList(losses)

    @property
    def weight(self) -> float:
        """Factor of all losses. A schedule may move this attribute."""
        first: float = self.losses[0].weight  # type: ignore[assignment]
        return first

    @weight.setter
    def weight(self, weight: float) -> None:
        for loss in self.losses:
            loss.weight = weight  # type: ignore[assignment]

    @property
    def coarse_ratios(self) -> tuple[float | None, ...]:
        """What each loss asks for; None for one that asks for no ratio."""
        return tuple(getattr(loss, 'coarse_ratio', None) for loss in self.losses)

    def forward(self, gate_values: Maps) -> dict[str, Tensor]:
        """Judge gate values (n, rows, cols) of each scale; by the names of the losses, sums over the scales.

        Raises:
            ValueError: If they are not as many maps as losses.
        """
        maps = per_scale(gate_values)
        if len(maps) != len(self.losses):
            raise ValueError(f'gate values: wanted {len(self.losses)} maps (n, rows, cols), got {len(maps)}')
        parts = [loss(values) for loss, values in zip(self.losses, maps, strict=True)]
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: torch.stack([part[name] for part in parts if name in part]).sum() for name in names}

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: object) -> None:
        for key in [x for x in state_dict if x.startswith(prefix) and not x.startswith(f'{prefix}losses.')]:
            value = state_dict.pop(key)
            for i in range(len(self.losses)):
                state_dict[f'{prefix}losses.{i}.{key.removeprefix(prefix)}'] = value
        super()._load_from_state_dict(state_dict, prefix, *others)
