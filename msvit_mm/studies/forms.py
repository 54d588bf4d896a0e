"""The forms of one backbone that a benchmark compares: its dense twin, and itself under stated decisions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import Costs, GatedBackbone, RegionBackbone
from ..backbones.base import Decisions, Features, image_size


class Form(NamedTuple):
    """One form of a backbone and what it gets.

    Attributes:
        decisions: Name of the decisions it runs under.
        name: ``'dense'``, ``'smaller image'`` (dense too) or the execution; with ``', steps'`` where steps between the
            layers act, without where they rest.
        backbone: Images to feature maps.
        images: Shape (B, 3, H, W).
        num_tokens: Active patch tokens, or tokens that the nodes of a routing space transform; mean over the images.
        gmacs: Multiply-adds in 1e9, mean over the images, of the active tokens alone whatever the execution.
        layer_gmacs: The same of the transformer layers.
        layers: Runs nothing but them, on tokens that were embedded before; None where these cannot run alone.
        span: The module whose call begins the layers and the one whose return ends them, or None.
    """

    decisions: str
    name: str
    backbone: nn.Module
    images: Tensor
    num_tokens: float
    gmacs: float
    layer_gmacs: float
    layers: Callable[[], object] | None = None
    span: tuple[nn.Module, nn.Module] | None = None


class StatedBackbone(nn.Module):
    """A gated backbone under stated decisions by one execution, in training as in inference.

    Many of these share one backbone, which is as it was after each call.
    """

    def __init__(
        self, backbone: GatedBackbone, decisions: Decisions, execution: str, between: Sequence[Any] = ()
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings: dict[str, Any] = dict(execution=execution, token_budget=None, between=tuple(between))
        self.settings['gate'] = backbone.state_decisions(decisions)

    def forward(self, images: Tensor) -> Features:
        with self.backbone.configured(**self.settings) as backbone:
            return backbone.forward(images)


@torch.no_grad()
def state_decisions(
    backbone: GatedBackbone, images: Tensor, ratios: Iterable[float], own: bool, seed: int
) -> dict[str, Decisions]:
    """Decisions by name: the gate's own, if wanted, and random ones.

    Args:
        images: Shape (B, 3, H, W).
        ratios: Of the random ones, in the backbone's own measure (``ratio_name``).

    Raises:
        ValueError: If no decisions have such a ratio.
    """
    stated = {'gate': backbone.forward_gated(images)[1].decisions} if own else {}
    generator = torch.Generator().manual_seed(seed)
    return stated | {f'random {ratio:g}': backbone.random_decisions(ratio, images, generator) for ratio in ratios}


def make_forms(
    backbone: GatedBackbone, images: Tensor, stated: Mapping[str, Decisions], executions: Iterable[str]
) -> Iterator[Form]:
    """The dense twin first; then under each of the decisions every execution, and again with steps between the layers.

    Where the gate decides regions, each decisions end with the dense twin on images of as few tokens.

    Args:
        images: Shape (B, 3, H, W).
        stated: Decisions by name, as :func:`state_decisions` returns them.
        executions: Some of the backbone's ``train_executions`` or ``test_executions``.
    """
    size = image_size(images)
    yield dense_form('all tokens', 'dense', backbone, images)
    for name, decisions in stated.items():
        numbers = mean_costs(backbone, backbone.costs_of(decisions, size))
        for execution in executions:
            form = StatedBackbone(backbone, decisions, execution)
            layers = _layers_alone(backbone, images, decisions, ()) if execution == 'packed' else None
            yield Form(name, execution, form, images, *numbers, layers, backbone.layer_span)
            if backbone.between:
                form = StatedBackbone(backbone, decisions, execution, backbone.between)
                fewer = mean_costs(backbone, backbone.executed_costs(images, decisions))
                layers = layers and _layers_alone(backbone, images, decisions, backbone.between)
                yield Form(name, f'{execution}, steps', form, images, *fewer, layers, backbone.layer_span)
        if backbone.region_size is not None:
            smaller = lower_resolution(numbers[0], size, cast(RegionBackbone, backbone).patch_size)
            resized = F.interpolate(images, size=smaller, mode='bilinear', antialias=True)
            yield dense_form(name, 'smaller image', backbone, resized)


def _layers_alone(
    backbone: GatedBackbone, images: Tensor, decisions: Decisions, between: tuple[Any, ...]
) -> Callable[[], object] | None:
    """The layers with these steps between them."""
    layers = backbone.layers_alone(images, decisions)
    if layers is None or between == backbone.between:
        return layers

    def run() -> None:
        with backbone.configured(between=between):
            layers()

    return run


def dense_form(decisions: str, name: str, backbone: GatedBackbone, images: Tensor) -> Form:
    """The dense twin on these images."""
    twin = backbone.dense_twin(image_size(images))
    numbers = mean_costs(backbone, backbone.dense_costs(image_size(images)))
    alone = getattr(twin, 'layers_alone', None)
    return Form(decisions, name, twin, images, *numbers, alone and alone(images), getattr(twin, 'layer_span', None))


def mean_costs(backbone: GatedBackbone, costs: Costs) -> tuple[float, float, float]:
    """Tokens, GMACs and GMACs of the layers, means over the images."""
    values = backbone.count_tokens(costs), costs.total / 1e9, costs.encoder / 1e9
    tokens, gmacs, layer_gmacs = (value.double().mean().item() for value in values)
    return tokens, gmacs, layer_gmacs


def lower_resolution(num_tokens: float, image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Size in pixels at which the dense network has about this many tokens, in the proportions of ``image_size``.

    Example:
        >>> lower_resolution(num_tokens=480, image_size=(512, 512), patch_size=16)
        (352, 352)
    """
    rows, cols = (-(-side // patch_size) for side in image_size)
    factor = (num_tokens / (rows * cols)) ** 0.5
    height, width = (max(1, round(side * factor)) * patch_size for side in (rows, cols))
    return height, width
