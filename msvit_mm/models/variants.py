"""The forms of one backbone that a benchmark compares: its dense host, and itself under stated decisions."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import VisionTransformer
from torch import Tensor, nn

from ..ops.packing import Packing
from ..ops.regions import RegionGrid, active_slots
from . import msvit, routing
from .choices import RouteChoices
from .gates import BaseGate, rank_logits
from .msvit import MSViT
from .pvt import NUM_ROWS, PVTBlock, Size, to_map, to_tokens
from .route_gates import BaseRouteGate, Edge, RandomRoutes
from .routing import DynamicTokenRoutingTransformer, row_sizes

EXECUTIONS = sorted({*msvit.TRAIN_EXECUTIONS, *msvit.TEST_EXECUTIONS, *routing.TEST_EXECUTIONS})
CERTAIN = 100.0  # beyond what the noise of a relaxed gate sample can turn over


class Variant(NamedTuple):
    """One form of a backbone and what it gets.

    Attributes:
        decisions: Name of the decisions it runs under.
        name: ``'dense'``, ``'smaller image'`` (dense too) or the execution.
        backbone: Images to feature maps.
        images: Shape (B, 3, H, W).
        num_tokens: Active patch tokens, or tokens that the nodes of a routing space transform; mean over the images.
        gmacs: Multiply-adds in 1e9, mean over the images, of the active tokens alone whatever the execution.
        block_gmacs: The same of the transformer blocks, where these can run alone.
        blocks: Runs nothing but them, on tokens that were embedded before.
    """

    decisions: str
    name: str
    backbone: nn.Module
    images: Tensor
    num_tokens: float
    gmacs: float
    block_gmacs: float | None = None
    blocks: Callable[[], object] | None = None


class StatedGate(BaseGate):
    """A gate at work whose outcome is stated, so that time and gradients are a gate's, also in training.

    Unlike ``decisions=`` of the backbone, which rule out counterfactual tokens, this holds for every execution.

    Args:
        gate: The gate that does the work and gets the gradient.
        decisions: 1 = coarse, 0 = fine, shape (B, rows, cols).
    """

    def __init__(self, gate: BaseGate, decisions: Tensor) -> None:
        super().__init__(gate.coarse_patch_size)
        self.gate = gate
        self.decisions = decisions

    def macs_per_region(self) -> int:
        return self.gate.macs_per_region()

    def forward(self, images: Tensor) -> Tensor:
        gate_logits = self.gate(images)
        return CERTAIN * (2 * self.decisions - 1) + gate_logits - gate_logits.detach()


class StatedRoutes(BaseRouteGate):
    """The same for routes.

    Args:
        gate: The gate that does the work and gets the gradient.
        decisions: 1 = open, 0 = closed, shape (B, rows, cols), on every edge.
    """

    def __init__(self, gate: BaseRouteGate, decisions: Mapping[Edge, Tensor]) -> None:
        super().__init__(gate.edges)
        self.gate = gate
        self.decisions = decisions

    def macs_per_token(self, edge: Edge) -> int:
        return self.gate.macs_per_token(edge)

    def forward(self, edge: Edge, tokens: Tensor, size: Size) -> Tensor:
        gate_logits = self.gate(edge, tokens, size)
        return CERTAIN * (2 * self.decisions[edge].flatten(1) - 1) + gate_logits - gate_logits.detach()


class StatedBackbone(nn.Module):
    """A gated backbone under stated decisions by one execution, in training as in inference.

    Many of these share one backbone, which is as it was after each call.
    """

    def __init__(self, backbone: nn.Module, decisions: Tensor | Mapping[Edge, Tensor], execution: str) -> None:
        super().__init__()
        self.backbone = backbone
        if isinstance(backbone, DynamicTokenRoutingTransformer):
            self.settings = dict(test_execution=execution, gate=StatedRoutes(backbone.gate, decisions))
        else:
            self.settings = dict(train_execution=execution, test_execution=execution, token_budget=None)
            self.settings['gate'] = StatedGate(backbone.gate, decisions)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        own = {name: getattr(self.backbone, name) for name in self.settings}
        self._set(self.settings)
        try:
            return self.backbone(images)
        finally:
            self._set(own)

    def _set(self, settings: dict) -> None:
        for name, value in settings.items():
            setattr(self.backbone, name, value)


def executions_of(backbone: nn.Module, training: bool) -> tuple[str, ...]:
    """The modes that a backbone can run in."""
    if isinstance(backbone, DynamicTokenRoutingTransformer):
        return ('masked',) if training else routing.TEST_EXECUTIONS
    return msvit.TRAIN_EXECUTIONS if training else msvit.TEST_EXECUTIONS


@torch.no_grad()
def state_decisions(
    backbone: nn.Module, images: Tensor, ratios: Iterable[float], own: bool, seed: int
) -> dict[str, Tensor | dict[Edge, Tensor]]:
    """Decisions by name: the gate's own, if wanted, and random ones.

    Args:
        images: Shape (B, 3, H, W).
        ratios: Of the random ones: coarse ratios of regions, or costs of routes relative to PVTv2.

    Raises:
        ValueError: If no decisions have such a ratio.
    """
    output = backbone.forward_gated(images)[1]
    choices = {'gate': output.decisions} if own else {}
    generator = torch.Generator().manual_seed(seed)
    for ratio in ratios:
        if isinstance(backbone, DynamicTokenRoutingTransformer):
            decisions = random_routes(backbone, ratio, images)
        else:
            decisions = random_decisions(ratio, tuple(output.decisions.shape), generator).to(output.decisions)
        choices[f'random {ratio:g}'] = decisions
    return choices


def make_variants(
    backbone: nn.Module, config: dict, images: Tensor, choices: Mapping, executions: Iterable[str]
) -> Iterator[Variant]:
    """The dense model first; then under each of the decisions every execution.

    Of MSViT the dense model is the host, which also runs on an image of as few tokens; of a routing space, plain PVTv2.

    Args:
        config: The config of ``backbone``.
        images: Shape (B, 3, H, W).
        choices: Decisions by name, as :func:`state_decisions` returns them.
        executions: Some of :func:`executions_of`.
    """
    if isinstance(backbone, DynamicTokenRoutingTransformer):
        return _route_variants(backbone, images, choices, executions)
    return _region_variants(backbone, config, images, choices, executions)


def _region_variants(
    backbone: MSViT, config: dict, images: Tensor, choices: Mapping[str, Tensor], executions: Iterable[str]
) -> Iterator[Variant]:
    size = tuple(images.shape[-2:])
    grid = RegionGrid(*size, backbone.patch_size, backbone.coarse_patch_size)
    yield _dense_variant('all fine', 'dense', backbone, config, images)
    for decisions_name, decisions in choices.items():
        num_tokens = active_slots(decisions, grid).flatten(1).sum(1)
        macs = backbone.macs_of_parts(num_tokens, size)
        gmacs, block_gmacs = sum(macs.values()) / 1e9, macs['encoder'] / 1e9
        counts = [value.double().mean().item() for value in (num_tokens, gmacs, block_gmacs)]
        for execution in executions:
            stated = StatedBackbone(backbone, decisions, execution)
            blocks = _packed_blocks(backbone, images, decisions) if execution == 'packed' else None
            yield Variant(decisions_name, execution, stated, images, *counts, blocks)
        smaller = lower_resolution(counts[0], size, backbone.patch_size)
        resized = F.interpolate(images, size=smaller, mode='bilinear', antialias=True)
        yield _dense_variant(decisions_name, 'smaller image', backbone, config, resized)


class PlainPVT(nn.Module):
    """The PVTv2 that a routing space contains, without gates: the blocks of the stages (i, i) on all tokens.

    Args:
        backbone: Where the parts come from.

    Raises:
        ValueError: If the stages (i, i) have not the depths of PVTv2.
    """

    def __init__(self, backbone: DynamicTokenRoutingTransformer) -> None:
        super().__init__()
        nodes = dict(backbone.nodes.items())
        depths = tuple(len(nodes.get(f'{i}_{i}', ())) for i in range(NUM_ROWS))
        if depths != backbone.arch['depths']:
            raise ValueError(f"stages (i, i): wanted PVTv2's {backbone.arch['depths']} blocks, got {depths}")
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        backbone, maps = self.backbone, []
        tokens = backbone.stem(images)
        for i, size in enumerate(row_sizes(tuple(images.shape[-2:]))):
            if i > 0:
                tokens = backbone.downsamples[i - 1](maps[-1])
            for block in backbone.nodes[f'{i}_{i}']:
                tokens = _plain_block(block, tokens, size)
            maps.append(to_map(backbone.norms[i](tokens), size))
        return tuple(maps[i].contiguous() for i in backbone.out_indices)


def _route_variants(
    backbone: DynamicTokenRoutingTransformer,
    images: Tensor,
    choices: Mapping[str, Mapping[Edge, Tensor]],
    executions: Iterable[str],
) -> Iterator[Variant]:
    size = tuple(images.shape[-2:])
    num_tokens = sum(rows * cols for rows, cols in row_sizes(size))
    gmacs = backbone.cost_table(size).reference / 1e9
    yield Variant('staircase', 'dense', PlainPVT(backbone), images, float(num_tokens), gmacs)
    for decisions_name, decisions in choices.items():
        with torch.no_grad():
            output = backbone.forward_gated(images, decisions)[1]
        costs = output.num_tokens.double().mean().item(), output.macs.mean().item() / 1e9
        for execution in executions:
            yield Variant(decisions_name, execution, StatedBackbone(backbone, decisions, execution), images, *costs)


def random_routes(backbone: DynamicTokenRoutingTransformer, cost_ratio: float, images: Tensor) -> dict[Edge, Tensor]:
    """Decisions on every edge for images (B, 3, H, W), random ones that cost this much of PVTv2 on average.

    Raises:
        ValueError: If none do.
    """
    share = backbone.active_ratio_of(cost_ratio, tuple(images.shape[-2:]))
    return RouteChoices(backbone).warmup_decisions(RandomRoutes(backbone.gate.edges, share), images)


def random_decisions(coarse_ratio: float, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Random regions are coarse; the images of a batch differ, evenly spread around the ratio.

    Args:
        coarse_ratio: Mean decision, in [0, 1]. A single image has this ratio; of several the outer ones come close to
            half way to 0 or 1, whichever is nearer.
        shape: (B, rows, cols).

    Raises:
        ValueError: If the ratio is none.

    Example:
        >>> random_decisions(0.5, (4, 8, 8), torch.Generator().manual_seed(0)).mean((1, 2))
        tensor([0.3125, 0.4375, 0.5625, 0.6875])
    """
    if not 0 <= coarse_ratio <= 1:
        raise ValueError(f'coarse ratio: wanted a number in [0, 1], got {coarse_ratio}')
    batch, rows, cols = shape
    places = (torch.arange(batch) + 0.5) / batch * 2 - 1  # in (-1, 1), of mean 0
    ratios = coarse_ratio + min(coarse_ratio, 1 - coarse_ratio) / 2 * places
    num_coarse = (ratios * rows * cols).round().view(-1, 1, 1)
    return (rank_logits(torch.rand(shape, generator=generator), num_coarse) > 0).float()


def build_dense(backbone: MSViT, config: dict, image_size: tuple[int, int]) -> VisionTransformer:
    """Build the host with the weights of a mixed-scale backbone: the same network on fine tokens alone.

    It gets what a careful dense model has: position embeddings laid out for the image size, and tokens in memory order
    (the host's own patch embedding leaves them transposed where no class token follows, which slows every layer).

    Args:
        backbone: Where the weights come from.
        config: The config of ``backbone``.
        image_size: (height, width) in pixels.
    """
    words = inspect.signature(VisionTransformer).parameters
    host = VisionTransformer(
        **{name: value for name, value in config.items() if name in words}
        | dict(
            arch=backbone.arch_settings,
            img_size=image_size,
            patch_size=backbone.patch_size,
            out_indices=list(backbone.out_indices),
            out_type='featmap',
            init_cfg=None,
        )
    )
    state = {name: value for name, value in backbone.state_dict().items() if not name.startswith('gate.')}
    state['pos_embed'] = host.resize_pos_embed(
        state['pos_embed'],
        backbone.patch_resolution,
        host.patch_resolution,
        backbone.interpolate_mode,
        backbone.num_extra_tokens,
    )
    host.load_state_dict(state)
    host.pre_norm.register_forward_hook(lambda module, args, tokens: tokens.contiguous())
    return host.to(state['pos_embed'].device)


def lower_resolution(num_tokens: float, image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Size in pixels at which the dense host has about this many tokens, in the proportions of ``image_size``.

    Example:
        >>> lower_resolution(num_tokens=480, image_size=(512, 512), patch_size=16)
        (352, 352)
    """
    rows, cols = (-(-side // patch_size) for side in image_size)
    shrink = (num_tokens / (rows * cols)) ** 0.5
    return tuple(max(1, round(side * shrink)) * patch_size for side in (rows, cols))


def _dense_variant(decisions: str, name: str, backbone: MSViT, config: dict, images: Tensor) -> Variant:
    size = tuple(images.shape[-2:])
    dense = build_dense(backbone, config, size)
    macs = backbone.dense_macs_of_parts(size)
    num_tokens = float(dense.patch_resolution[0] * dense.patch_resolution[1])
    gmacs = float(sum(macs.values())) / 1e9
    return Variant(
        decisions, name, dense, images, num_tokens, gmacs, float(macs['encoder']) / 1e9, _dense_blocks(dense, images)
    )


@torch.no_grad()
def _dense_blocks(host: VisionTransformer, images: Tensor) -> Callable[[], object]:
    """The layers of a host and its last norm, on the tokens of these images."""
    embedded = []
    hook = host.pre_norm.register_forward_hook(lambda module, args, tokens: embedded.append(tokens.contiguous()))
    host.eval()  # returns nothing
    host(images)
    hook.remove()
    return partial(nn.Sequential(*host.layers, host.ln1), embedded[0])


@torch.no_grad()
def _packed_blocks(backbone: MSViT, images: Tensor, decisions: Tensor) -> Callable[[], object]:
    """The layers of a mixed-scale backbone and its last norm, on the tokens of these images."""
    grid = RegionGrid(*images.shape[-2:], backbone.patch_size, backbone.coarse_patch_size)
    active = Packing.select(backbone.with_extra_tokens(active_slots(decisions, grid)))
    return partial(backbone.run_packed, backbone.embed(images, grid, active), active)


def _plain_block(block: PVTBlock, tokens: Tensor, size: Size) -> Tensor:
    """A block of PVTv2 whose tokens are all open, without the products with its gate, (B, N, C) -> (B, N, C)."""
    normed, lengths = block.norm1(tokens), [tokens.shape[1]] * len(tokens)
    attended = block.attn(normed.flatten(0, 1), normed, lengths, size).unflatten(0, tokens.shape[:2])
    tokens = tokens + block.drop_path(attended)
    hidden = to_map(block.mlp.fc1(block.norm2(tokens)), size)
    return tokens + block.drop_path(block.mlp.fc2(F.gelu(to_tokens(block.mlp.dwconv(hidden)))))
