"""MSViT: a plain vision transformer on tokens of two scales or more, chosen per region by a gate."""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..gates import node_sides
from ..ops.checks import check_range
from ..ops.gating import zero_with_gradient
from ..ops.mixed_grid import MixedGrid, MixedTokens
from ..ops.packing import Packing
from ..ops.scales import by_scale
from ..ops.tiling import (
    Maps,
    Tiling,
    active_slots,
    as_maps,
    gather_patches,
    map_scales,
    pad_to_regions,
    reached_nodes,
    regions_to_nodes,
)
from .base import Costs, Features, check_images, height_and_width, image_size
from .coarse import DetailOf, build_coarse_pixels, build_detail
from .dense_vit import DenseViT
from .embedding import PositionGrid, PositionTables, embed_patches, insert_extra_tokens, places_of
from .executions import EXECUTIONS, Batch, Encoding, packed_stream
from .exits import build_exits
from .extended_vit import ExtendedViT
from .layers import Passed, PretrainLayer, Stream, draw_drop_path, run_layers
from .merging import build_merge
from .msvit_examples import EXAMPLES
from .region import Counterfactual, GateOutput, RegionBackbone
from .static import StaticMSViT, make_static
from .steps import StepOutput, count_cells, describe_steps
from .vit_costs import dense_costs, mixed_costs
from .words import PACKED_EXECUTIONS, check_between, check_built, check_words


@MODELS.register_module()
class MSViT(RegionBackbone, PositionGrid, ExtendedViT):
    """Mixed-scale vision transformer.

    A gate chooses one coarse token or ``(coarse_patch_size / patch_size)**2`` fine ones for every region of the image.
    Of more scales, ``patch_sizes=(16, 32, 64)``, each region holds a tree: its token, or within it one coarse token or
    fine ones for every node of the next scale. All scales share mmpretrain's ``VisionTransformer``, whose constructor
    words and state-dict keys are kept; only ``gate.*`` is new. The features return to the grid of fine cells, each cell
    from the one token that covers it.

    ``torch.compile`` compiles gate, embedding and what the layers do to each token, once for all layers and numbers of
    tokens; attention runs as it is.

    Args:
        arch: Any architecture of the host: ``'deit-tiny'``, ``'deit-small'``, ``'base'``, ... or a dict.
        img_size: Image size in pixels for which the position embedding is laid out; other sizes interpolate it.
        patch_size: Side of a fine patch in pixels.
        coarse_patch_size: Side of a coarse patch and of a region in pixels, a larger multiple of ``patch_size``.
        patch_sizes: Sides of the patches of all scales, ascending, each a larger multiple of the one before; the first
            and the last are then ``patch_size`` and ``coarse_patch_size``, whatever these say. None: these two.
        gate: Config of the gate: ``ScaleGate``, ``ContextGate``, ``StaticGate``, ``RandomGate``, ``FixedGate`` or
            ``EdgeGate``.
            Of more than two scales one such gate decides each; ``NestedGate`` takes one config for each, and
            ``SharedScaleGate`` is one for all.
        gate_temperature: Temperature of the relaxed gate sample, > 0.
        gate_gradient: Path from the task loss to the gate: the ``'output'`` mix where tokens return to the grid, the
            attention ``'mask'``, or ``'both'``. The mask path needs ``train_execution`` ``'masked'`` or ``'trimmed'``.
        train_execution: How a learnable gate trains. ``'counterfactual'``: active tokens, and in a share of the regions
            the tokens of the other scale as queries without backward. ``'masked'``: all tokens are queries, active ones
            keys; the reference. ``'trimmed'``: the paper's adaptive trimming, for comparison: as ``'masked'``, but in
            each image the active tokens are moved to the front, in their order, and the batch is cut to the most active
            tokens of any image; an image with fewer keeps its first masked tokens up to that length. Features are the
            same, the gate's gradient is not: the mask path lacks the tokens cut off, the output mix all regions that
            lost a token, without correction. ``'packed'``: active tokens only, so that the task does not reach the
            gate. A gate that cannot learn always trains packed.
        counterfactual_share: Share of the regions, in (0, 1], drawn per image and step.
        test_execution: ``'packed'``, ``'padded'`` or ``'masked'``; the features are the same.
        token_budget: Active patch tokens of each image (or sliding window) in evaluation mode, whatever the gate's
            logits are: they then only rank the regions, and as many are fine as the budget allows. None: logits above 0
            are coarse, as in training.
        train_ratios: (low, high) of the coarse ratio that each training image draws for itself, whatever the gate's
            logits are: they then only rank the regions, as under a budget, and one network gets to know every budget.
            None: logits above 0 are coarse.
        attention_scope: ``'image'``, or ``'region'``: a token attends to its own region alone. A region then has no
            evidence but its own, which teaches a gate far more where labels are of whole images. Needs
            ``with_cls_token=False``.
        coarse_embedding: ``'shared'``: a coarse token sees its region shrunk to a fine patch. ``'own'``: all its
            pixels, too, through weights of its own that begin as zero
            (:class:`~msvit_mm.backbones.coarse.CoarsePixels`).
        detail: Words of :class:`~msvit_mm.backbones.coarse.CellDetail`, which begins as zero: ``dict(hidden_dims=64,
            levels=(0, 1))`` for the first two maps. None: all cells of a coarse region have its token alone.
        merge: Config of a step that merges similar tokens before some layers, image by image: ``MutualPairs`` or
            ``Bipartite``, as ``dict(type='MutualPairs', before=(3, 6))``. With it, and with ``exits``, tokens run
            ``'packed'``, or in training ``'counterfactual'``.
        exits: Words of :class:`~msvit_mm.backbones.exits.ConfidentExits`: ``dict(layers=(6, 8), num_classes=150)``.
            Tokens whose class is clear leave; label maps teach it, so only segmentors can.
        out_indices: Layers whose maps are returned, -1 = the last.
        out_type: ``'featmap'``: maps (B, C, h, w). ``'tokens'``: MixedTokens, for heads that work on tokens and scatter
            what they make of them; the gate's output mix is then theirs. ``'cls_token'``: the class token (B, C) of the
            same layers; then the task reaches a gate through the attention mask alone.
        with_cp: Keep only the layers' inputs for the backward pass and compute each layer again there: less memory,
            more time, the same gradients.
        **host: All further arguments of ``VisionTransformer``, and ``num_registers`` and ``rope`` of DINOv2 and DINOv3
            (:class:`~msvit_mm.backbones.extended_vit.ExtendedViT`).

    Raises:
        ValueError: If an argument has no meaning, with the accepted ones.

    Source: Havtorn et al., "MSViT: Dynamic Mixed-Scale Tokenization for Vision Transformers", arXiv 2307.02321.

    Example:
        >>> model = MSViT(arch='deit-tiny', img_size=64, gate=dict(type='RandomGate', coarse_ratio=0.5)).eval()
        >>> (features,), gate_output = model.forward_gated(torch.rand(2, 3, 64, 64))
        >>> features.shape, gate_output.num_tokens
        (torch.Size([2, 192, 4, 4]), tensor([10, 10]))
    """

    patch_sizes: tuple[int, ...] = ()
    OUT_TYPES = ('featmap', 'tokens', 'cls_token')
    train_executions: tuple[str, ...] = ('masked', 'trimmed', 'counterfactual', 'packed')
    test_executions: tuple[str, ...] = ('masked', 'padded', 'packed')
    additions = r'(gate|coarse_pixels|detail|exits)\..+'
    weight_families = ('timm', 'mmseg', 'mmpretrain')
    collection = 'MSViT'
    paper: ClassVar[dict[str, str]] = dict(
        Title='MSViT: Dynamic Mixed-Scale Tokenization for Vision Transformers', URL='https://arxiv.org/abs/2307.02321'
    )

    def __init__(
        self,
        arch: str | dict[str, Any] = 'deit-small',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        coarse_patch_size: int = 32,
        patch_sizes: Sequence[int] | None = None,
        gate: dict[str, Any] | None = None,
        gate_temperature: float = 1.0,
        gate_gradient: str = 'output',
        train_execution: str = 'counterfactual',
        counterfactual_share: float = 0.5,
        test_execution: str = 'packed',
        token_budget: float | None = None,
        train_ratios: tuple[float, float] | None = None,
        attention_scope: str = 'image',
        coarse_embedding: str = 'shared',
        detail: dict[str, Any] | None = None,
        merge: dict[str, Any] | None = None,
        exits: dict[str, Any] | None = None,
        out_indices: int | list[int] | tuple[int, ...] = -1,
        out_type: str = 'featmap',
        with_cp: bool = False,
        **host: Any,
    ) -> None:
        check_words(
            type(self),
            arch=arch,
            gate_temperature=gate_temperature,
            gate_gradient=gate_gradient,
            train_execution=train_execution,
            counterfactual_share=counterfactual_share,
            test_execution=test_execution,
            token_budget=token_budget,
            train_ratios=train_ratios,
            attention_scope=attention_scope,
            coarse_embedding=coarse_embedding,
            out_type=out_type,
            drop_path_rate=host.get('drop_path_rate', 0.0),
        )
        img_size = height_and_width(img_size)
        out_indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        patch_sizes = (patch_size, coarse_patch_size) if patch_sizes is None else patch_sizes
        patch_sizes = (patch_sizes,) if isinstance(patch_sizes, int) else tuple(patch_sizes)
        grid = Tiling(*img_size, patch_sizes)
        patch_size, coarse_patch_size = grid.patch_size, grid.region_size

        super().__init__(
            arch=arch, img_size=img_size, patch_size=patch_size, out_indices=out_indices, out_type=out_type, **host
        )
        self.host_words = host
        self.patch_size = patch_size
        self.coarse_patch_size = coarse_patch_size
        self.patch_sizes = patch_sizes
        self.grid_size = (grid.rows, grid.cols)
        self.gate_temperature = gate_temperature
        self.gate_gradient = gate_gradient
        self.train_execution = train_execution
        self.counterfactual_share = counterfactual_share
        self.test_execution = test_execution
        self.token_budget = token_budget
        self.train_ratios = None if train_ratios is None else check_range('[0, 1]', train_ratios=train_ratios)
        self.attention_scope = attention_scope
        self.with_cp = with_cp
        self.gate = self.build_gate(gate or self.default_gate)
        check_built(self)
        dims, channels = self.embed_dims, self.patch_embed.projection.in_channels
        self.coarse_pixels = build_coarse_pixels(coarse_embedding, patch_sizes, dims, channels)
        self.detail = build_detail(detail, patch_sizes, dims, channels, out_type, len(out_indices))
        self.adapter = PretrainLayer()
        self.drop_path_rates = [self.adapter.take_drop_path(layer) for layer in self.layers]
        step = None if merge is None else build_merge(merge, self.num_layers, self.num_extra_tokens)
        self.exits = None
        if exits is not None:
            self.exits = build_exits(exits, self.num_layers, self.embed_dims, self.num_extra_tokens)
            self.token_classes = self.exits.num_classes
        self.merges_tokens = step is not None and bool(step.before)
        self.between = tuple(x for x in (step if self.merges_tokens else None, self.exits) if x is not None)
        if self.between:
            self.train_executions, self.test_executions = PACKED_EXECUTIONS
            check_between(self)
        self.position_tables = PositionTables()

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return copy.deepcopy(EXAMPLES)

    def train(self, mode: bool = True) -> 'MSViT':
        """Set the mode, keep frozen stages in evaluation, and return self as torch does."""
        super().train(mode)
        if mode and self.frozen_stages > 0:
            self._freeze_stages()
        return self

    # The way of the images

    def forward_gated(self, images: Tensor, decisions: Maps | None = None) -> tuple[Features, GateOutput]:
        """Feature maps and what the gate said.

        Args:
            images: Normalised images of any size, shape (B, 3, H, W).
            decisions: 1 = coarse, 0 = fine, instead of the gate's, shape (B, rows, cols); of more than two scales one
                map for each but the smallest, of the largest nodes first.

        Returns:
            One map (B, C, ceil(H / patch_size), ceil(W / patch_size)), or what ``out_type`` asks for, per entry of
            ``out_indices``; a GateOutput.

        Raises:
            ValueError: If images or decisions have the wrong shape or values, or no decisions keep ``token_budget``.
        """
        check_images(images, self.patch_embed.projection.in_channels)
        tiling = self.tile(image_size(images))
        gate_logits, gate_values, chosen, mixed_values, learning = self._decide(images, tiling, decisions)
        slots = active_slots(chosen, tiling)
        batch = self._batch(images, tiling, chosen, slots, mixed_values)
        execution = self.test_execution
        if self.training:
            execution = self.train_execution if learning else 'packed'
        encoding = EXECUTIONS[execution](self, batch)
        costs = mixed_costs(self, slots, tiling, encoding.passed)
        features, counterfactual = self._return_to_grid(images, encoding, tiling, chosen, mixed_values)
        num_tokens, steps = slots.flatten(1).sum(1), self._describe_steps(encoding, tiling, chosen)
        sides = node_sides(self.patch_sizes) if len(self.patch_sizes) > 2 else ()
        return features, GateOutput(
            gate_logits, gate_values, chosen, num_tokens, costs, self.region_size, counterfactual, steps, sides
        )

    def _batch(
        self, images: Tensor, tiling: Tiling, decisions: Maps, slots: Tensor, gate_values: Maps | None = None
    ) -> Batch:
        """What an execution gets."""
        rates = [rate if layer.training else 0.0 for rate, layer in zip(self.drop_path_rates, self.layers, strict=True)]
        batch = Batch(
            images,
            tiling,
            decisions,
            slots,
            self.num_extra_tokens,
            self._sequences_per_image(tiling),
            gate_values,
            by_output=self.gate_gradient != 'mask',
            by_mask=self.gate_gradient != 'output',
            share=self.counterfactual_share,
            drop_path=draw_drop_path(rates, self.adapter.branches, len(images), images),
        )
        return replace(batch, cells=count_cells(tiling, batch.active)) if self.between else batch

    def _describe_steps(self, encoding: Encoding, tiling: Tiling, decisions: Maps) -> StepOutput | None:
        if not self.between or encoding.passed is None:
            return None
        layout = MixedGrid(tiling, decisions, encoding.active)
        freezing = self.exits is not None and self.exits.freeze_logits and not self.training
        words = dict(merging=self.merges_tokens, exiting=self.exits is not None, freezing=freezing)
        return describe_steps(encoding.passed, layout, **words)

    def _sequences_per_image(self, tiling: Tiling) -> int:
        return tiling.num_regions if self.attention_scope == 'region' else 1

    def embed(self, images: Tensor, tiling: Tiling, chosen: Packing) -> Tensor:
        """Positioned tokens of the chosen candidates and of no others, (B, 3, H, W) -> (T, C)."""
        places = places_of(chosen)
        patches = gather_patches(pad_to_regions(images, tiling.region_size), tiling, chosen)
        tokens = embed_patches(self.patch_embed, patches)
        if self.num_extra_tokens:
            tokens = insert_extra_tokens(tokens, self.extra_tokens(), places)
        for own in by_scale(self.coarse_pixels):
            tokens = own.add_to(tokens, images, tiling, chosen)
        if self.pos_embed is not None:
            tokens = tokens + nn.functional.embedding(places, self.position_tables.get(self, tiling))
        return self.pre_norm(self.drop_after_pos(tokens))

    def run(self, active: Stream, queries: Stream | None = None, drop_path: Tensor | None = None) -> Passed:
        """The layers, as :func:`~msvit_mm.backbones.layers.run_layers`."""
        return run_layers(
            self.layers,
            self.adapter,
            active,
            queries,
            out_indices=self.out_indices,
            last_norm=self.ln1 if self.final_norm else None,
            drop_path=drop_path,
            between=self.between,
            with_cp=self.with_cp and self.training,
        )

    def _return_to_grid(
        self,
        images: Tensor,
        encoding: Encoding,
        tiling: Tiling,
        decisions: Maps,
        gate_values: Maps | None,
    ) -> tuple[Features, Counterfactual | None]:
        if self.out_type == 'cls_token':
            first = encoding.active.places()[:, 0]
            return tuple(tokens[first] for tokens, _ in encoding.levels), None
        layout = MixedGrid(tiling, decisions, encoding.active, encoding.counterfactual)
        if encoding.counterfactual is None:
            return self._features(layout, encoding, images), None
        assert gate_values is not None and encoding.weights is not None
        weights = as_maps([regions_to_nodes(encoding.weights, scale) for scale in tiling.scales[:-1]])
        zeros = map_scales(lambda values, own: zero_with_gradient(values) * own, gate_values, weights)
        features = self._features(replace(layout, gate_zero=zeros), encoding, images)

        @torch.no_grad()
        def swap(nodes: Maps) -> Features:
            steps = map_scales(lambda stays, swapped: (1 - 2 * stays) * swapped, decisions, nodes)
            return self._features(replace(layout, gate_zero=steps), encoding, images)

        reached = reached_nodes(decisions, node_sides(self.patch_sizes))
        drawn = map_scales(lambda weight, own: (weight > 0) & (own > 0), weights, reached)
        return features, Counterfactual(drawn, swap)

    def _features(self, layout: MixedGrid, encoding: Encoding, images: Tensor) -> Features:
        levels = encoding.levels
        if self.out_type == 'tokens':
            places = [None] * len(levels) if encoding.passed is None else encoding.passed.places
            return tuple(MixedTokens(*x, layout, images, place) for x, place in zip(levels, places, strict=True))
        detail = None if self.detail is None else DetailOf(self.detail, images, layout.tiling)
        return layout.scatter(levels, detail)

    # What it costs

    def costs_of(self, decisions: Maps, image_size: tuple[int, int]) -> Costs:
        """Costs of images of this size under decisions (B, rows, cols), if no steps between layers change tokens."""
        tiling = self.tile(image_size)
        return mixed_costs(self, active_slots(decisions, tiling), tiling)

    def dense_costs(self, image_size: tuple[int, int]) -> Costs:
        return dense_costs(self, self.tile(image_size))

    # What benchmarks compare with

    def dense_decisions(self, images: Tensor) -> Maps | None:
        """All fine; None where attention is within regions or tokens merge, as in no dense network."""
        return None if self.attention_scope == 'region' or self.between else super().dense_decisions(images)

    def dense_twin(self, image_size: tuple[int, int]) -> DenseViT:
        """The host with these weights: the same network on fine tokens alone."""
        words = self.host_words | dict(
            arch=self.arch_settings,
            img_size=image_size,
            patch_size=self.patch_size,
            out_indices=list(self.out_indices),
            out_type='featmap',
            init_cfg=None,
        )
        state = {name: x for name, x in self.state_dict().items() if not re.fullmatch(self.additions, name)}
        return DenseViT.of_mixed(words, state, self.patch_resolution)

    def static(self, image_size: tuple[int, int], token_budget: float | None = None) -> StaticMSViT:
        return make_static(self, image_size, token_budget)

    @torch.no_grad()
    def layers_alone(self, images: Tensor, decisions: Maps) -> Callable[[], object]:
        tiling = self.tile(image_size(images))
        batch = self._batch(images, tiling, decisions, active_slots(decisions, tiling))
        return partial(self.run, packed_stream(self, batch, batch.active))

    @property
    def has_cell_detail(self) -> bool:
        return self.detail is not None

    @property
    def layer_span(self) -> tuple[nn.Module, nn.Module]:
        return self.layers[0].ln1, self.layers[-1].ffn
