"""MSViT: a plain vision transformer on tokens of two scales, chosen per region by a gate."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from mmengine.registry import MODELS
from mmpretrain.models.backbones import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops.attention import masked_attention, packed_attention
from ..ops.gating import (
    BUDGET_SCOPES,
    budget_decisions,
    hard_decisions,
    relaxed_gate_sample,
    straight_through,
    zero_with_gradient,
)
from ..ops.macs import encoder_macs
from ..ops.mixed_grid import MixedGrid, MixedTokens
from ..ops.packing import Packing
from ..ops.regions import RegionGrid, active_slots, pad_to_regions, token_areas
from ..ops.resample import gather_patches, mixed_position_table
from .gates import build_gate

TRAIN_EXECUTIONS = ('masked', 'trimmed', 'counterfactual', 'packed')
TEST_EXECUTIONS = ('masked', 'padded', 'packed')
GATE_GRADIENTS = ('output', 'mask', 'both')
ATTENTION_SCOPES = ('image', 'region')
MAX_POSITION_TABLES = 8


class GateOutput(NamedTuple):
    """What the gate said about a batch.

    Attributes:
        gate_logits: Real numbers, above 0 = coarse, shape (B, rows, cols).
        gate_values: Relaxed sample in [0, 1], with gradient where the gate learns, shape (B, rows, cols).
        decisions: 1 = coarse, 0 = fine, as executed, shape (B, rows, cols).
        num_tokens: Active patch tokens of each image, integers, shape (B,).
    """

    gate_logits: Tensor
    gate_values: Tensor
    decisions: Tensor
    num_tokens: Tensor


@MODELS.register_module()
class MSViT(VisionTransformer):
    """Mixed-scale vision transformer.

    A gate chooses one coarse token or ``(coarse_patch_size / patch_size)**2`` fine ones for every region of the image.
    Both scales share mmpretrain's ``VisionTransformer``, whose constructor words and state-dict keys are kept; only
    ``gate.*`` is new. The features return to the grid of fine cells, each cell from the one token that covers it.

    ``torch.compile`` compiles gate, embedding and what the layers do to each token, once for all layers and numbers of
    tokens; attention runs as it is.

    Args:
        arch: Any architecture of the host: ``'deit-tiny'``, ``'deit-small'``, ``'base'``, ... or a dict.
        img_size: Image size in pixels for which the position embedding is laid out; other sizes interpolate it.
        patch_size: Side of a fine patch in pixels.
        coarse_patch_size: Side of a coarse patch and of a region in pixels, a larger multiple of ``patch_size``.
        gate: Config of the gate: ``ScaleGate``, ``StaticGate``, ``RandomGate``, ``FixedGate`` or ``EdgeGate``.
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
        token_budget: Active patch tokens in evaluation mode, whatever the gate's logits are: they then only rank the
            regions, and as many are fine as the budget allows. None: logits above 0 are coarse, as in training.
        budget_scope: The budget is kept by each ``'image'`` (or sliding window), or by the mean over the ``'batch'``.
        attention_scope: ``'image'``, or ``'region'``: a token attends to its own region alone. A region then has no
            evidence but its own, which teaches a gate far more where labels are of whole images. Needs
            ``with_cls_token=False``.
        out_indices: Layers whose maps are returned, -1 = the last.
        out_type: ``'featmap'``: maps (B, C, h, w). ``'tokens'``: MixedTokens, for heads that work on tokens and scatter
            what they make of them; the gate's output mix is then theirs. ``'cls_token'``: the class token (B, C) of the
            same layers; then the task reaches a gate through the attention mask alone.
        with_cp: Keep only the layers' inputs for the backward pass and compute each layer again there: less memory,
            more time, the same gradients.
        **host: All further arguments of ``VisionTransformer``.

    Raises:
        ValueError: If an argument has no meaning, with the accepted ones.

    Source: Havtorn et al., "MSViT: Dynamic Mixed-Scale Tokenization for Vision Transformers", arXiv 2307.02321.

    Example:
        >>> model = MSViT(arch='deit-tiny', img_size=64, gate=dict(type='RandomGate', coarse_ratio=0.5)).eval()
        >>> (features,), gate_output = model.forward_gated(torch.rand(2, 3, 64, 64))
        >>> features.shape, gate_output.num_tokens
        (torch.Size([2, 192, 4, 4]), tensor([10, 10]))
    """

    OUT_TYPES = ('featmap', 'tokens', 'cls_token')

    def __init__(
        self,
        arch: str | dict = 'deit-small',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        coarse_patch_size: int = 32,
        gate: dict | None = None,
        gate_temperature: float = 1.0,
        gate_gradient: str = 'output',
        train_execution: str = 'counterfactual',
        counterfactual_share: float = 0.5,
        test_execution: str = 'packed',
        token_budget: float | None = None,
        budget_scope: str = 'image',
        attention_scope: str = 'image',
        out_indices: int | list[int] | tuple[int, ...] = -1,
        out_type: str = 'featmap',
        with_cp: bool = False,
        **host,
    ) -> None:
        _check_choice('train_execution', train_execution, TRAIN_EXECUTIONS)
        _check_choice('test_execution', test_execution, TEST_EXECUTIONS)
        _check_choice('gate_gradient', gate_gradient, GATE_GRADIENTS)
        _check_choice('out_type', out_type, self.OUT_TYPES)
        _check_choice('budget_scope', budget_scope, BUDGET_SCOPES)
        _check_choice('attention_scope', attention_scope, ATTENTION_SCOPES)
        if isinstance(arch, str):
            _check_choice('arch', arch.lower(), tuple(sorted(self.arch_zoo)))
        if gate_gradient != 'output' and train_execution not in ('masked', 'trimmed'):
            raise ValueError(
                f"gate_gradient={gate_gradient!r} needs train_execution='masked' or 'trimmed', got {train_execution!r}"
            )
        if not 0 < counterfactual_share <= 1:
            raise ValueError(f'counterfactual_share must lie in (0, 1], got {counterfactual_share}')
        if gate_temperature <= 0:
            raise ValueError(f'gate_temperature must be positive, got {gate_temperature}')
        img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        grid = RegionGrid(*img_size, patch_size, coarse_patch_size)
        out_indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)

        super().__init__(
            arch=arch, img_size=img_size, patch_size=patch_size, out_indices=out_indices, out_type=out_type, **host
        )
        self.patch_size = patch_size
        self.coarse_patch_size = coarse_patch_size
        self.grid_size = (grid.rows, grid.cols)
        self.slots_per_region = grid.slots
        self.gate_temperature = gate_temperature
        self.gate_gradient = gate_gradient
        self.train_execution = train_execution
        self.counterfactual_share = counterfactual_share
        self.test_execution = test_execution
        self.token_budget = token_budget
        self.budget_scope = budget_scope
        self.attention_scope = attention_scope
        self.with_cp = with_cp
        if attention_scope == 'region' and self.num_extra_tokens:
            raise ValueError("attention_scope='region' needs with_cls_token=False: a class token lies in no region")
        self.gate = build_gate(gate or dict(type='ScaleGate'), coarse_patch_size)
        if out_type == 'cls_token' and self.gate.learnable and gate_gradient != 'mask' and train_execution != 'packed':
            raise ValueError(
                "out_type='cls_token' never returns to the grid, where the output mix reaches the gate: a learned gate "
                f"needs gate_gradient='mask' or train_execution='packed', got {gate_gradient!r}, {train_execution!r}"
            )
        self.drop_path_rates = [_take_drop_path(layer) for layer in self.layers]
        self._position_source: Tensor | None = None
        self._position_tables: dict[RegionGrid, Tensor] = {}

    def init_weights(self) -> None:
        """Apply the backbone's ``init_cfg``, then the gate's: it prevails over a gate in the backbone's file."""
        first = not self.is_init
        self.gate.is_init = True  # mmengine would initialise it before it loads the backbone's file
        super().init_weights()
        if first:
            self.gate.is_init = False
            self.gate.init_weights()

    def train(self, mode: bool = True) -> 'MSViT':
        """Set the mode, keep frozen stages in evaluation, and return self as torch does."""
        super().train(mode)
        if mode and self.frozen_stages > 0:
            self._freeze_stages()
        return self

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> tuple[Tensor, ...]:
        """Feature maps of :meth:`forward_gated` alone."""
        return self.forward_gated(images, decisions)[0]

    def forward_gated(self, images: Tensor, decisions: Tensor | None = None) -> tuple[tuple[Tensor, ...], GateOutput]:
        """Feature maps and what the gate said.

        Args:
            images: Normalised images of any size, shape (B, 3, H, W).
            decisions: 1 = coarse, 0 = fine, instead of the gate's, shape (B, rows, cols).

        Returns:
            One map (B, C, ceil(H / patch_size), ceil(W / patch_size)), or what ``out_type`` asks for, per entry of
            ``out_indices``; a GateOutput.

        Raises:
            ValueError: If images or decisions have the wrong shape or values, or no decisions keep ``token_budget``.
        """
        grid = self._check_images(images)
        gate_logits = self.gate(images)
        learning = self.training and self.gate.learnable
        gate_values = relaxed_gate_sample(gate_logits, self.gate_temperature, noise=learning)
        overridden = decisions is not None
        decisions = self._check_decisions(decisions, gate_logits) if overridden else hard_decisions(gate_values)
        if self.token_budget is not None and not (self.training or overridden):
            decisions = budget_decisions(gate_logits, grid, self.token_budget, self.budget_scope)

        execution = self.test_execution
        if self.training:
            execution = self.train_execution if learning else 'packed'
        mixing = learning and not overridden and execution != 'packed'

        slots = active_slots(decisions, grid)
        active = Packing.select(self.with_extra_tokens(slots))
        levels, others, weights = self._encode(images, grid, slots, active, execution, gate_values if mixing else None)
        gate = GateOutput(gate_logits, gate_values, decisions, slots.flatten(1).sum(1))
        if self.out_type == 'cls_token':
            first = active.positions()[:, 0]
            return tuple(tokens[first] for tokens, _ in levels), gate
        pull = None if others is None else zero_with_gradient(gate_values) * weights
        layout = MixedGrid(grid, decisions, active, others, pull)
        if self.out_type == 'tokens':
            return tuple(MixedTokens(*level, layout) for level in levels), gate
        return layout.scatter(levels), gate

    def _encode(
        self,
        images: Tensor,
        grid: RegionGrid,
        slots: Tensor,
        active: Packing,
        execution: str,
        gate_values: Tensor | None,
    ) -> tuple[list[tuple[Tensor, Tensor | None]], Packing | None, Tensor | None]:
        """Run the layers.

        Returns:
            For every requested layer the active tokens (T, C) and the others without gradient (T', C); which those are,
            if the gate learns from the output mix (else None); and how much the contrast of a region weighs there,
            shape (B, rows, cols).
        """
        drop_path = self._draw_drop_path(images)
        contrasting = gate_values is not None and self.gate_gradient != 'mask'
        inside = token_areas(grid, images.device) > 0
        if execution == 'packed' or (execution == 'counterfactual' and not contrasting):
            return self.run_packed(self.embed(images, grid, active), active, drop_path=drop_path), None, None
        if execution == 'counterfactual':
            drawn = self.draw_regions(torch.ones_like(gate_values))
            others = Packing.select(
                self.with_extra_tokens(~slots & inside & drawn.flatten(1).bool().unsqueeze(-1), value=0)
            )
            x = self.embed(images, grid, active)
            with torch.no_grad():
                z = self.embed(images, grid, others)
            # unbiased: regions that were not drawn contribute nothing, the others in proportion more
            return self.run_packed(x, active, z, others, drop_path), others, drawn * (drawn.numel() / drawn.sum())

        is_active = self._sequences(self.with_extra_tokens(slots))
        length = is_active.shape[1] if execution == 'masked' else is_active.sum(1).max()
        is_inside = self._sequences(self.with_extra_tokens(inside.expand_as(slots)))
        order = (is_active.long() + is_inside).argsort(dim=1, descending=True, stable=True)  # active tokens first
        order = order[:, :length]
        key_mask = is_active
        if gate_values is not None and self.gate_gradient != 'output':
            key_mask = self._sequences(self._key_weights(gate_values, grid))
        others, weights = None, None
        if contrasting:
            kept = torch.zeros_like(is_active).scatter(1, order, True).view(active.shape)
            kept = kept[:, self.num_extra_tokens :].view_as(slots)
            others = Packing.select(self.with_extra_tokens(~slots & inside & kept, value=0))
            weights = (kept | ~inside).all(-1).view_as(gate_values).to(gate_values)
        all_candidates = Packing.select(torch.ones(active.shape, dtype=torch.bool, device=images.device))
        tokens = self.embed(images, grid, all_candidates).unflatten(0, active.shape)
        return self._run_rows(tokens, order, key_mask, active, others, drop_path), others, weights

    def embed(self, images: Tensor, grid: RegionGrid, chosen: Packing) -> Tensor:
        """Positioned tokens of the chosen candidates and of no others, (B, 3, H, W) -> (T, C)."""
        extra, places = self.num_extra_tokens, chosen.index % chosen.shape[1]
        patches = gather_patches(pad_to_regions(images, grid.coarse_patch_size), grid, chosen)
        # a linear layer on pixels: the convolution takes 3.5 times as long on single patches
        projection, norm = self.patch_embed.projection, self.patch_embed.norm
        tokens = nn.functional.linear(patches.flatten(1), projection.weight.flatten(1), projection.bias)
        tokens = tokens if norm is None else norm(tokens)
        if self.cls_token is not None:
            is_patch = places >= extra
            row = torch.where(is_patch, is_patch.cumsum(0) + extra - 1, places)
            tokens = torch.cat([self.cls_token[0], tokens]).index_select(0, row)
        tokens = tokens + nn.functional.embedding(places, self._positions(grid)[0])
        return self.pre_norm(self.drop_after_pos(tokens))

    @torch.compiler.disable  # so that what is kept makes no difference to what is compiled
    def _positions(self, grid: RegionGrid) -> Tensor:
        """Position embeddings of all candidates, class token first, shape (1, extra + R * (1 + s * s), C).

        Where they need no gradient, the tables of the last few grids are kept as long as ``pos_embed`` has the same
        values. These are compared: a write to a parameter's ``.data``, as weight averaging does, changes no version.
        """
        if self.pos_embed.requires_grad and torch.is_grad_enabled():
            return self._make_positions(grid)
        with torch.inference_mode(False), torch.no_grad():  # what is kept must serve training, too
            source, known = self.pos_embed.detach(), self._position_source
            same_kind = known is not None and (known.device, known.dtype) == (source.device, source.dtype)
            if not (same_kind and torch.equal(known, source)):
                self._position_source, self._position_tables = source.clone(), {}
            if grid not in self._position_tables:
                if len(self._position_tables) == MAX_POSITION_TABLES:
                    del self._position_tables[next(iter(self._position_tables))]
                self._position_tables[grid] = self._make_positions(grid)
            return self._position_tables[grid]

    def _make_positions(self, grid: RegionGrid) -> Tensor:
        extra, cells = self.num_extra_tokens, (grid.cell_rows, grid.cell_cols)
        positions = self.resize_pos_embed(
            self.pos_embed, self.patch_resolution, cells, self.interpolate_mode, self.num_extra_tokens
        )
        table = mixed_position_table(positions[:, extra:], grid).flatten(1, 2)
        return torch.cat([positions[:, :extra], table], dim=1)

    def draw_regions(self, decisions: Tensor) -> Tensor:
        """Draw the regions that get counterfactual tokens: the same number in each image, 1 = drawn."""
        num_regions = decisions[0].numel()
        num_drawn = max(1, round(self.counterfactual_share * num_regions))
        ranks = torch.rand_like(decisions).flatten(1).argsort(dim=1).argsort(dim=1)
        return (ranks < num_drawn).to(decisions.dtype).view_as(decisions)

    def count_macs(self, num_tokens: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Multiply-adds of gate, embedding and encoder for images of ``image_size`` with these active patch tokens."""
        return sum(self.macs_of_parts(num_tokens, image_size).values())

    def macs_of_parts(self, num_tokens: Tensor, image_size: tuple[int, int]) -> dict[str, Tensor | int]:
        """The parts of :meth:`count_macs`: ``'gate'``, alike for all images, ``'embedding'`` and ``'encoder'``."""
        grid = RegionGrid(*image_size, self.patch_size, self.coarse_patch_size)
        return dict(
            gate=grid.num_regions * self.gate.macs_per_region(),
            embedding=num_tokens.double() * self.patch_embed.projection.weight.numel(),
            encoder=self._encoder_macs(num_tokens, self._pairs_within_regions(num_tokens, grid)),
        )

    def dense_macs_of_parts(self, image_size: tuple[int, int]) -> dict[str, Tensor | int]:
        """The same for the host on fine tokens alone: no gate."""
        num_tokens = RegionGrid(*image_size, self.patch_size, self.coarse_patch_size).num_cells
        embedding = num_tokens * self.patch_embed.projection.weight.numel()
        return dict(gate=0, embedding=embedding, encoder=self._encoder_macs(torch.tensor(num_tokens)))

    def _pairs_within_regions(self, num_tokens: Tensor, grid: RegionGrid) -> Tensor | None:
        """Query-key pairs where attention stays within whole regions: 1 of a coarse one, ``scale**4`` of a fine one."""
        if self.attention_scope == 'image':
            return None
        return grid.num_regions + (num_tokens - grid.num_regions) * (grid.scale**2 + 1)

    def _encoder_macs(self, num_tokens: Tensor, num_pairs: Tensor | None = None) -> Tensor:
        linears = [m for layer in self.layers for m in layer.ffn.modules() if isinstance(m, nn.Linear)]
        ffn_macs = sum(linear.weight.numel() for linear in linears) / self.num_layers
        num_tokens = num_tokens.double() + self.num_extra_tokens
        return encoder_macs(num_tokens, self.embed_dims, ffn_macs, self.num_layers, num_pairs)

    def run_packed(
        self,
        x: Tensor,
        active: Packing,
        z: Tensor | None = None,
        others: Packing | None = None,
        drop_path: Tensor | None = None,
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Run the layers on the active tokens of all images as one sequence.

        Args:
            x: Active tokens, the class tokens among them, as :meth:`embed` returns them, shape (T, C).
            active: Where they belong.
            z: Further tokens, queries of the active ones alone and without backward, shape (T', C).
            others: Where they belong.
            drop_path: Factors of stochastic depth, shape (num_layers, 2, B).

        Returns:
            For each of ``out_indices`` the active tokens, shape (T, C), and the others, (T', C) or None.
        """
        keep, lengths = self._keep(drop_path, active.image_of_token()), self._sequence_lengths(active)
        if others is not None:
            z_keep, z_lengths = self._keep(drop_path, others.image_of_token()), self._sequence_lengths(others)
        levels = []
        for i, layer in enumerate(self.layers):
            attend = partial(packed_attention, key_lengths=lengths, dropout=_attention_dropout(layer))
            x, *keys = self._run_layer(layer, x, partial(attend, query_lengths=lengths), keep[i], others is not None)
            x = self._norm_last(i, x)
            if others is not None:
                with torch.no_grad():
                    attended = attend(_project_query(layer, z), *keys, query_lengths=z_lengths)
                    z = self._norm_last(i, _finish(layer, z, attended, z_keep[i]))
            if i in self.out_indices:
                levels.append((x, z))
        return levels

    def _run_rows(
        self,
        tokens: Tensor,
        order: Tensor,
        key_mask: Tensor,
        active: Packing,
        others: Packing | None,
        drop_path: Tensor | None,
    ) -> list[tuple[Tensor, Tensor | None]]:
        """All sequences at one length: those of their candidates that ``order`` (rows, length) lists, in its order."""
        x = self._sequences(tokens).take_along_dim(order.unsqueeze(-1), dim=1)
        key_mask = key_mask.take_along_dim(order, dim=1)
        image_of_row = torch.arange(len(order), device=order.device) * len(tokens) // len(order)
        keep = self._keep(drop_path, image_of_row.unsqueeze(-1))
        places = order.new_zeros(len(order), tokens.shape[0] * tokens.shape[1] // len(order))
        places = places.scatter(1, order, torch.arange(order.numel(), device=order.device).view_as(order)).flatten()
        levels = []
        for i, layer in enumerate(self.layers):
            attend = partial(masked_attention, key_mask=key_mask, dropout=_attention_dropout(layer))
            (x,) = self._run_layer(layer, x, attend, keep[i])
            x = self._norm_last(i, x)
            if i in self.out_indices:
                x_flat = x.flatten(0, 1)
                z = None if others is None else x_flat.detach()[places[others.index]]
                levels.append((x_flat[places[active.index]], z))
        return levels

    def _run_layer(self, *args) -> tuple[Tensor, ...]:
        """:func:`_run_layer`, computed again in the backward pass if ``with_cp``."""
        if self.with_cp and self.training:
            return checkpoint(_run_layer, *args, use_reentrant=False)
        return _run_layer(*args)

    def _norm_last(self, i: int, x: Tensor) -> Tensor:
        """The host's final norm after layer ``i``, if that is the last."""
        return self.ln1(x) if self.final_norm and i == self.num_layers - 1 else x

    def _sequences(self, candidates: Tensor) -> Tensor:
        """What attends among itself on one row: the image's, (B, N, ...), or each region's, (B * R, 1 + s * s, ...)."""
        if self.attention_scope == 'image':
            return candidates
        return candidates.flatten(0, 1).unflatten(0, (-1, self.slots_per_region))

    def _sequence_lengths(self, packing: Packing) -> list[int]:
        """Packed tokens of every sequence."""
        if self.attention_scope == 'image':
            return packing.lengths
        num_regions = packing.shape[0] * packing.shape[1] // self.slots_per_region
        return (packing.index // self.slots_per_region).bincount(minlength=num_regions).tolist()

    def _draw_drop_path(self, images: Tensor) -> Tensor | None:
        """Stochastic depth: a factor per layer, branch and image, shape (num_layers, 2, B)."""
        rates = [rate if layer.training else 0.0 for rate, layer in zip(self.drop_path_rates, self.layers, strict=True)]
        if not any(rates):
            return None
        keep = 1 - images.new_tensor(rates)[:, None, None]
        return torch.rand(self.num_layers, 2, len(images), device=images.device).lt(keep) / keep

    def _keep(self, drop_path: Tensor | None, images: Tensor) -> Tensor | list[None]:
        """Factors of the tokens of these images, (num_layers, 2, B) -> (num_layers, 2, *images.shape, 1)."""
        return [None] * self.num_layers if drop_path is None else drop_path[:, :, images].unsqueeze(-1)

    def _key_weights(self, gate_values: Tensor, grid: RegionGrid) -> Tensor:
        """Straight-through weight of every candidate as a key, the mask path to the gate, shape (B, N)."""
        coarse = straight_through(gate_values).flatten(1).unsqueeze(-1)  # (B, rows, cols) -> (B, R, 1)
        inside = (token_areas(grid, gate_values.device)[:, 1:] > 0).to(coarse)
        return self.with_extra_tokens(torch.cat([coarse, (1 - coarse) * inside], dim=-1))

    def with_extra_tokens(self, slots: Tensor, value: int = 1) -> Tensor:
        """Prepend the class token's place, (B, R, 1 + s * s) -> (B, extra + R * (1 + s * s))."""
        return nn.functional.pad(slots.flatten(1), (self.num_extra_tokens, 0), value=value)

    def _check_images(self, images: Tensor) -> RegionGrid:
        channels = self.patch_embed.projection.in_channels
        if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise ValueError(
                f'images must be floating point of shape (B, {channels}, H, W), '
                f'got {images.dtype} of shape {tuple(images.shape)}'
            )
        if not (images.sum().isfinite() or images.isfinite().all()):  # finite numbers may have an infinite sum
            bad = (~images.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
            raise ValueError(f'images must be finite, got NaN or infinity in image(s) {bad} of the batch')
        return RegionGrid(*images.shape[-2:], self.patch_size, self.coarse_patch_size)

    @staticmethod
    def _check_decisions(decisions: Tensor, gate_logits: Tensor) -> Tensor:
        if decisions.shape != gate_logits.shape:
            raise ValueError(
                f'decisions must have shape (B, rows, cols) = {tuple(gate_logits.shape)}, got {tuple(decisions.shape)}'
            )
        if not ((decisions == 0) | (decisions == 1)).all():
            raise ValueError(f'decisions must be 0 (fine) or 1 (coarse), got {decisions.unique().tolist()[:8]}')
        return decisions.to(gate_logits)


def _check_choice(name: str, value: object, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(f'{name} must be one of {", ".join(map(repr, choices))}, got {value!r}')


def _take_drop_path(layer: nn.Module) -> float:
    """Take the host layer's drop path out and return its rate: here it acts per image, not per row of a tensor."""
    rate = float(getattr(layer.attn.out_drop, 'drop_prob', 0.0) or 0.0)
    layer.attn.out_drop = nn.Identity()
    layer.ffn.dropout_layer = nn.Identity()
    return rate


def _attention_dropout(layer: nn.Module) -> float:
    return layer.attn.attn_drop if layer.training else 0.0


def _run_layer(
    layer: nn.Module, x: Tensor, attend: Callable, keep: Tensor | None, return_keys: bool = False
) -> tuple[Tensor, ...]:
    """One transformer layer on tokens of any leading shape.

    Args:
        attend: From query, key and value to their attention.
        keep: Stochastic depth's factor for both branches, which broadcasts to (2, ..., C), or None.
        return_keys: Return keys and values, too. Without them their memory is free for the feed-forward network.

    Returns:
        Tokens, and the keys and values that they had, if asked for.
    """
    if not return_keys:
        return (_finish(layer, x, attend(*_project_qkv(layer, x)), keep),)
    query, key, value = _project_qkv(layer, x)
    return _finish(layer, x, attend(query, key, value), keep), key, value


def _finish(layer: nn.Module, x: Tensor, attended: Tensor, keep: Tensor | None) -> Tensor:
    """The rest of a layer after its attention."""
    branch = layer.attn.gamma1(layer.attn.proj_drop(layer.attn.proj(attended.flatten(-2))))
    if keep is None:
        x = x + branch
        return layer.ffn(layer.ln2(x), identity=x)
    x = x + branch * keep[0]
    return x + layer.ffn(layer.ln2(x), identity=x.new_zeros(())) * keep[1]


def _project_qkv(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(..., C) -> three of (..., heads, head_dims)."""
    return layer.attn.qkv(layer.ln1(x)).unflatten(-1, (3, layer.attn.num_heads, -1)).unbind(-3)


def _project_query(layer: nn.Module, x: Tensor) -> Tensor:
    """The query alone, (..., C) -> (..., heads, head_dims)."""
    qkv, dims = layer.attn.qkv, layer.attn.embed_dims
    bias = None if qkv.bias is None else qkv.bias[:dims]
    return nn.functional.linear(layer.ln1(x), qkv.weight[:dims], bias).unflatten(-1, (layer.attn.num_heads, -1))
