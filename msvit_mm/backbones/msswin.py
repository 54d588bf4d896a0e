"""MSSwin: a Swin transformer on tokens of two scales, chosen per region by a gate."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models.backbones import SwinTransformer
from mmpretrain.models.utils import WindowMSA, resize_pos_embed
from torch import Tensor, nn

from ..gates.base import linear_macs
from ..ops.checks import check_range
from ..ops.gating import zero_with_gradient
from ..ops.packing import Packing
from ..ops.tiling import Maps, Tiling, pad_to_regions, per_scale, shrink, to_squares
from . import executions
from .base import Costs, Features, check_choice, check_images, height_and_width, image_size
from .embedding import embed_patches, source_grid
from .layers import draw_drop_path
from .region import Counterfactual, GateOutput, RegionBackbone
from .swin_layers import DenseSwin, Stream, layer_of, run_stages, take_drop_path
from .swin_windows import StageGrid, StageTokens, count_pairs, resize_bias_table
from .words import check_decided


class Encoding(NamedTuple):
    """What the stages return.

    Attributes:
        levels: For each map the tokens (T, C), and the counterfactual ones without gradient (T', C) or None.
        active, others: Where they belong, stage by stage.
        weights: How much the contrast of a region weighs, shape (B, rows, cols); None if the gate learns from none.
    """

    levels: list[tuple[Tensor, Tensor | None]]
    active: list[StageTokens]
    others: list[StageTokens] | None = None
    weights: Tensor | None = None


@MODELS.register_module()
class MSSwin(RegionBackbone, SwinTransformer):
    """Mixed-scale Swin transformer.

    A gate chooses for every region of the image whether it runs at the host's resolution or at half of it, through all
    stages: a coarse token covers 2 x 2 cells until one is as large as the region. Both scales share the weights of
    mmpretrain's ``SwinTransformer``, whose constructor words and state-dict keys are kept; only ``gate.*`` is new.

    Windows are the host's: a coarse token belongs to that of its top left cell. Biases of half steps lie between the
    trained ones; cells that pad a map to whole windows are keys, as in the host, and never queries. In each of the maps
    every cell has what the one token has that covers it.

    Tokens are counted, for budgets too, in the stage in which a coarse region has one token and a fine one four.

    Args:
        arch: Any architecture of the host: ``'tiny'``, ``'small'``, ``'base'``, ``'large'`` or a dict.
        img_size: Image size in pixels for which a budget and the gate's priors are laid out; any other size does.
        region_size: Side of a region in pixels, the stride of the last stage or twice as much: 32 or 64 for the named
            architectures. At 32 the last stage has one token per region, whatever the gate says.
        gate: Config of the gate: ``ScaleGate``, ``ContextGate``, ``StaticGate``, ``RandomGate``, ``FixedGate`` or
            ``EdgeGate``.
        gate_temperature: Temperature of the relaxed gate sample, > 0.
        train_execution: How a learnable gate trains. ``'counterfactual'``: active tokens, and in a share of the regions
            the tokens of the other scale as queries without backward. ``'masked'``: all tokens are queries, active ones
            keys; the reference. ``'packed'``: active tokens only, so that the task does not reach the gate. A gate that
            cannot learn always trains packed.
        counterfactual_share: Share of the regions, in (0, 1], drawn per image and step.
        test_execution: ``'packed'`` or ``'masked'``; the features are the same.
        token_budget: Active patch tokens of each image (or sliding window) in evaluation mode, whatever the gate's
            logits are: they then only rank the regions, and as many are fine as the budget allows. None: logits above 0
            are coarse, as in training.
        train_ratios: (low, high): every training image draws its coarse ratio from this range, and the gate ranks its
            regions, so that one network serves all budgets between. None: the gate's logits decide.
        proportional_attention: Weigh a coarse key as four cells, also where the border of the image cuts it to fewer.
        patch_size: Side of a cell of the first stage in pixels.
        out_indices: Stages whose maps are returned.
        with_cp: Keep only the blocks' inputs for the backward pass and compute each block again there: less memory,
            more time, the same gradients.
        **host: All further arguments of ``SwinTransformer``.

    Raises:
        ValueError: If an argument has no meaning, with the accepted ones, or the host would not be a plain Swin.

    Source: Liu et al., "Swin Transformer", arXiv 2103.14030; Havtorn et al., "MSViT", arXiv 2307.02321.

    Example:
        >>> model = MSSwin(gate=dict(type='RandomGate', coarse_ratio=0.5), out_indices=(0, 1, 2, 3)).eval()
        >>> features, gate_output = model.forward_gated(torch.rand(1, 3, 224, 256))
        >>> [tuple(x.shape[1:]) for x in features], gate_output.num_tokens
        ([(96, 56, 64), (192, 28, 32), (384, 14, 16), (768, 7, 8)], tensor([140]))
    """

    train_executions = ('masked', 'counterfactual', 'packed')
    test_executions = ('masked', 'packed')
    weight_families = ('Swin', 'timm Swin', 'mmpretrain Swin')
    collection = 'MSSwin'
    paper: ClassVar[dict[str, str]] = dict(
        Title='MSViT: Dynamic Mixed-Scale Tokenization for Vision Transformers', URL='https://arxiv.org/abs/2307.02321'
    )

    def __init__(
        self,
        arch: str | dict[str, Any] = 'tiny',
        img_size: int | tuple[int, int] = 224,
        region_size: int = 32,
        gate: dict[str, Any] | None = None,
        gate_temperature: float = 1.0,
        train_execution: str = 'counterfactual',
        counterfactual_share: float = 0.5,
        test_execution: str = 'packed',
        token_budget: float | None = None,
        train_ratios: tuple[float, float] | None = None,
        proportional_attention: bool = False,
        patch_size: int = 4,
        out_indices: Sequence[int] = (3,),
        with_cp: bool = False,
        **host: Any,
    ) -> None:
        check_choice('train_execution', train_execution, self.train_executions)
        check_choice('test_execution', test_execution, self.test_executions)
        if isinstance(arch, str):
            check_choice('arch', arch.lower(), tuple(sorted(self.arch_zoo)))
        check_decided(
            counterfactual_share, gate_temperature, token_budget, train_ratios, host.get('drop_path_rate', 0.0)
        )
        out_indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
        settings: Any = self.arch_zoo[arch.lower()] if isinstance(arch, str) else arch
        stages = range(len(settings['depths']))
        if not out_indices or list(out_indices) != [i for i in stages if i in out_indices]:
            raise ValueError(f'out_indices: wanted ascending ones of stages 0 to {stages[-1]}, got {out_indices}')
        self.host_words = host | dict(patch_size=patch_size, out_indices=out_indices, with_cp=with_cp)
        super().__init__(arch=arch, img_size=height_and_width(img_size), **self.host_words)
        self.strides = [patch_size * 2**i for i in range(self.num_layers)]
        check_choice('region_size', region_size, (self.strides[-1], 2 * self.strides[-1]))
        self._check_host()
        self.img_size = height_and_width(img_size)
        self.patch_size, self.coarse_patch_size = region_size // 2, region_size
        grid = self.tile(self.img_size)
        self.grid_size = (grid.rows, grid.cols)
        self.gate_temperature = gate_temperature
        self.train_execution = train_execution
        self.counterfactual_share = counterfactual_share
        self.test_execution = test_execution
        self.token_budget = token_budget
        self.train_ratios = None if train_ratios is None else check_range('[0, 1]', train_ratios=train_ratios)
        self.proportional_attention = proportional_attention
        self.with_cp = with_cp
        self.gate = self.build_gate(gate or self.default_gate)
        self.drop_path_rates = [take_drop_path(block) for stage in self.stages for block in stage.blocks]

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        words = dict(
            arch=dict(embed_dims=8, depths=[2, 1], num_heads=[1, 2]),
            img_size=(64, 96),
            patch_size=8,
            region_size=16,
            window_size=4,
            drop_path_rate=0.0,
            out_indices=(0, 1),
            gate=dict(type='ScaleGate', initial_ratio=0.5),
        )
        odd = dict(window_size=7, pad_small_map=True, use_abs_pos_embed=True, proportional_attention=True)
        return {'plain': words, 'larger regions, odd windows, positions': words | dict(region_size=32, **odd)}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save, and state the grid of absolute positions beside, which their number does not tell."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.use_abs_pos_embed and hasattr(destination, '_metadata'):
            destination._metadata.setdefault(prefix[:-1], {})['position_grid'] = self.patch_embed.init_out_size

    def _prepare_abs_pos_embed(
        self, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *others: Any
    ) -> None:
        """Resize positions of another grid before they are loaded; the host takes every grid for a square one."""
        name, own = f'{prefix}absolute_pos_embed', tuple(self.patch_embed.init_out_size)
        if name in state_dict and self.use_abs_pos_embed:
            grid = source_grid(state_dict[name].shape[1], own, metadata.get('position_grid'))
            state_dict[name] = resize_pos_embed(state_dict[name], grid, own, self.interpolate_mode, 0)

    def _check_host(self) -> None:
        """Check that patches, windows and merging are those of a plain Swin."""
        patch, (side, *_) = self.patch_embed, self.strides
        plain = {
            'out_after_downsample=False': not self.out_after_downsample,
            f'patches of {side} x {side} pixels that do not overlap': (
                type(patch.projection) is nn.Conv2d
                and patch.projection.kernel_size == patch.projection.stride == (side, side)
                and getattr(patch.adaptive_padding, 'padding', None) == 'corner'
            ),
        }
        for stage in self.stages:
            merging = stage.downsample
            plain['merging of 2 x 2'] = merging is None or merging.reduction.in_features == 4 * stage.embed_dims
            for block in stage.blocks:
                plain['attention of Swin V1'] = type(block.attn.w_msa) is WindowMSA
                plain['windows of at least 3 x 3 cells'] = block.attn.window_size >= 3
                if wrong := [name for name, is_so in plain.items() if not is_so]:
                    raise ValueError(f'{type(self).__name__}: wanted {wrong[0]}, got words that make it otherwise')

    def train(self, mode: bool = True) -> 'MSSwin':
        """Set the mode, keep frozen stages in evaluation, and return self as torch does."""
        super().train(mode)
        return self

    def adopt(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The host's weights; norms of maps that its classifiers have not begin as these are."""
        adopted = dict(weights)
        self._rename_old(adopted, '')
        self._prepare_relative_position_bias_table(adopted, '')
        norms = {key: x for key, x in self.state_dict().items() if re.fullmatch(r'norm\d\..+', key)}
        return norms | adopted if f'norm{self.num_layers - 1}.weight' in adopted else weights

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        self._rename_old(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _rename_old(self, state_dict: dict[str, Any], prefix: str) -> None:
        """The oldest files of the host name the last norm otherwise and hold masks."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = key.removeprefix(prefix)
            if name.startswith('norm.'):
                state_dict[f'{prefix}norm{self.num_layers - 1}.{name[5:]}'] = state_dict.pop(key)
            elif name.endswith('.attn_mask'):
                del state_dict[key]

    def _prepare_relative_position_bias_table(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Resize biases of other windows as Swin's authors do; the host's way needs an old SciPy."""
        for name, own in self.named_parameters():
            key, given = prefix + name, state_dict.get(prefix + name)
            if name.endswith('relative_position_bias_table') and given is not None and len(given) != len(own):
                state_dict[key] = resize_bias_table(given, len(own))
                index = name.replace('bias_table', 'index')
                state_dict[prefix + index] = self.get_buffer(index)

    # The way of the images

    def forward_gated(self, images: Tensor, decisions: Tensor | None = None) -> tuple[Features, GateOutput]:
        """Feature maps and what the gate said.

        Args:
            images: Normalised images of any size, shape (B, 3, H, W).
            decisions: 1 = coarse, 0 = fine, instead of the gate's, shape (B, rows, cols).

        Returns:
            A map (B, C_i, ceil(H / stride_i), ceil(W / stride_i)) for each stage of ``out_indices``; a GateOutput.

        Raises:
            ValueError: If images or decisions have the wrong shape or values, no decisions keep ``token_budget``, or a
                map is smaller than a window, without ``pad_small_map``.
        """
        check_images(images, self.patch_embed.projection.in_channels)
        tiling = self.tile(image_size(images))
        decided: Any = self._decide(images, tiling, decisions)  # of two scales
        gate_logits, gate_values, chosen, mixed_values, learning = decided
        encoding = self._encode(images, chosen.bool(), mixed_values, learning)
        costs = self._costs(encoding.active, tiling)
        features, counterfactual = self._return_to_grid(encoding, chosen, mixed_values)
        return features, GateOutput(
            gate_logits,
            gate_values,
            chosen,
            self.count_tokens(costs).long(),
            costs,
            self.region_size,
            counterfactual,
        )

    def tokens_of(self, fine: Tensor, coarse: Tensor, image_size: tuple[int, int]) -> list[StageTokens]:
        """The fine tokens of some regions and the coarse ones of some, booleans (B, rows, cols), in each stage."""
        grids = [StageGrid(*image_size, stride, self.region_size) for stride in self.strides]
        return [StageTokens(grid, Packing.select(grid.select(fine, coarse))) for grid in grids]

    def _encode(self, images: Tensor, coarse: Tensor, gate_values: Tensor | None, learning: bool) -> Encoding:
        execution = self.test_execution
        if self.training:
            execution = self.train_execution if learning else 'packed'
        size, run = image_size(images), partial(self._run, drop_path=self._draw_drop_path(images))
        active, everywhere = self.tokens_of(~coarse, coarse, size), torch.ones_like(coarse)
        if execution == 'masked':
            masks = [tokens.grid.select(~coarse, coarse).flatten() for tokens in active]
            levels = run(self._embed(images, self.tokens_of(everywhere, everywhere, size)), key_masks=masks)
            levels = [(x[masks[i]], x[~masks[i]].detach()) for i, (x, _) in zip(self.out_indices, levels, strict=True)]
            weights = None if gate_values is None else torch.ones_like(gate_values)
            return Encoding(levels, active, self.tokens_of(coarse, ~coarse, size), weights)
        if execution == 'packed' or gate_values is None:
            return Encoding(run(self._embed(images, active)), active)
        drawn = executions.draw_regions(gate_values, self.counterfactual_share)
        others = self.tokens_of(coarse & drawn.bool(), ~coarse & drawn.bool(), size)
        stream = self._embed(images, active)  # first: older autocast keeps a cast made without gradients for later ones
        with torch.no_grad():
            queries = self._embed(images, others)
        # unbiased: regions that were not drawn contribute nothing, the others in proportion more
        weights = drawn * (drawn.numel() / drawn.sum())
        return Encoding(run(stream, queries), active, others, weights)

    def _run(self, active: Stream, others: Stream | None = None, **words: Any) -> list[tuple[Tensor, Tensor | None]]:
        """The stages, as :func:`~msvit_mm.backbones.swin_layers.run_stages`."""
        return run_stages(
            self.stages,
            active,
            others,
            norms={i: getattr(self, f'norm{i}') for i in self.out_indices},
            coarse_weight=math.log(4) if self.proportional_attention else 0.0,
            with_cp=self.with_cp and self.training,
            **words,
        )

    def _embed(self, images: Tensor, stages: list[StageTokens]) -> Stream:
        """Positioned tokens of the first stage, (B, 3, H, W) -> (T, C)."""
        tokens, grid, side = stages[0], stages[0].grid, stages[0].grid.stride
        halved = shrink(pad_to_regions(images, 2 * side), 2)
        squares = [to_squares(x, side).flatten(1, 2) for x in (pad_to_regions(images, side), halved)]
        patches = torch.cat(squares, dim=1)  # fine, then coarse, each in raster order
        x = embed_patches(self.patch_embed, tokens.packing.pack(patches))
        if self.use_abs_pos_embed:
            cells = resize_pos_embed(
                self.absolute_pos_embed, self.patch_resolution, grid.size, self.interpolate_mode, self.num_extra_tokens
            )
            nodes = cells.mT.unflatten(2, grid.size)  # (1, h * w, C) -> (1, C, h, w)
            nodes = F.avg_pool2d(nodes, 2, ceil_mode=True, count_include_pad=False).flatten(2).mT
            x = x + F.embedding(tokens.place, torch.cat([cells, nodes], dim=1)[0])
        return Stream(self.drop_after_pos(x), stages)

    def _draw_drop_path(self, images: Tensor) -> Tensor | None:
        blocks = [block for stage in self.stages for block in stage.blocks]
        rates = [rate if block.training else 0.0 for rate, block in zip(self.drop_path_rates, blocks, strict=True)]
        return draw_drop_path(rates, 2, len(images), images)

    def _return_to_grid(
        self, encoding: Encoding, decisions: Tensor, gate_values: Tensor | None
    ) -> tuple[Features, Counterfactual | None]:
        if encoding.weights is None or gate_values is None:
            return scatter(encoding, self.out_indices, decisions), None

        @torch.no_grad()
        def swap(regions: Maps) -> Features:
            (own,) = per_scale(regions)
            return scatter(encoding, self.out_indices, decisions, (1 - 2 * decisions) * own)

        gate_zero = zero_with_gradient(gate_values) * encoding.weights
        features = scatter(encoding, self.out_indices, decisions, gate_zero)
        return features, Counterfactual(encoding.weights > 0, swap)

    # What it costs

    def count_tokens(self, costs: Costs) -> Tensor:
        """Tokens of each image in the stage in which a coarse region has one and a fine one four, shape (B,)."""
        stage = self.strides.index(self.patch_size)
        return costs.num_tokens[sum(self.depths[:stage])].double()

    def costs_of(self, decisions: Tensor, image_size: tuple[int, int]) -> Costs:
        coarse = decisions.bool()
        return self._costs(self.tokens_of(~coarse, coarse, image_size), self.tile(image_size))

    def dense_costs(self, image_size: tuple[int, int]) -> Costs:
        counts, pairs = [], []
        for stage, stride in zip(self.stages, self.strides, strict=True):
            rows, cols = size = tuple(-(-n // stride) for n in image_size)
            layers = [layer_of(block, size) for block in stage.blocks]
            counts.append(torch.tensor([rows * cols]))
            pairs.append([torch.tensor([layer.pairs(rows) * layer.pairs(cols)]) for layer in layers])
        costs = self._sum_costs(counts, pairs)
        return costs._replace(reference=int(costs.total.item()))

    def padding_macs(self, image_size: tuple[int, int]) -> int:
        return self.dense_twin(image_size).count_macs(image_size) - int(self.dense_costs(image_size).reference)

    def _costs(self, stages: list[StageTokens], tiling: Tiling) -> Costs:
        """Costs of the tokens that run in each stage, and of the gate."""
        counts, pairs = [], []
        for stage, tokens in zip(self.stages, stages, strict=True):
            layers = [layer_of(block, tokens.grid.size) for block in stage.blocks]
            known = {layer: count_pairs(tokens, layer) for layer in dict.fromkeys(layers)}
            counts.append(torch.tensor(tokens.packing.lengths, device=tokens.place.device))
            pairs.append([known[layer] for layer in layers])
        costs = self._sum_costs(counts, pairs)
        gate = torch.full_like(costs.gate, self.gate.macs(tiling))
        reference = self.dense_costs((tiling.height, tiling.width)).reference
        return costs._replace(gate=gate, reference=reference)

    def _sum_costs(self, counts: list[Tensor], pairs: list[list[Tensor]]) -> Costs:
        """Costs of tokens in each stage, (B,), and of pairs of query and key in each block, (B,), without a gate."""
        encoder = torch.zeros_like(counts[0], dtype=torch.float64)
        for i, stage in enumerate(self.stages):
            for block, num_pairs in zip(stage.blocks, pairs[i], strict=True):
                encoder += counts[i] * linear_macs(block) + 2 * num_pairs * block.attn.w_msa.embed_dims
            if stage.downsample is not None:
                encoder += counts[i + 1] * linear_macs(stage.downsample)
        layers = torch.stack([count for count, depth in zip(counts, self.depths, strict=True) for _ in range(depth)])
        embedding = counts[0].double() * self.patch_embed.projection.weight.numel()
        return Costs(layers, torch.zeros_like(encoder), embedding, encoder, 0)

    # What benchmarks compare with

    def dense_twin(self, image_size: tuple[int, int]) -> DenseSwin:
        """The host with these weights: the same network on fine tokens alone."""
        twin = DenseSwin(**self.host_words | dict(arch=self.arch_settings, img_size=image_size, init_cfg=None))
        state = {name: x for name, x in self.state_dict().items() if not name.startswith('gate.')}
        if self.use_abs_pos_embed:  # resized once, here, and not in every call
            state['absolute_pos_embed'] = resize_pos_embed(
                self.absolute_pos_embed, self.patch_resolution, twin.patch_resolution, self.interpolate_mode, 0
            )
        twin.load_state_dict(state)
        return twin.to(self.patch_embed.projection.weight)

    @torch.no_grad()
    def layers_alone(self, images: Tensor, decisions: Tensor) -> Callable[[], object]:
        coarse = decisions.bool()
        return partial(self._run, self._embed(images, self.tokens_of(~coarse, coarse, image_size(images))))

    @property
    def layer_span(self) -> tuple[nn.Module, nn.Module]:
        return self.stages[0].blocks[0].norm1, self.stages[-1].blocks[-1].ffn

    @property
    def has_cell_detail(self) -> bool:
        """Whether the cells of one token differ in their features: in maps finer than the tokens that are counted."""
        return True


def scatter(
    encoding: Encoding, out_indices: Sequence[int], decisions: Tensor, gate_zero: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Give every cell of each map what the token has that covers it.

    Args:
        encoding: Of the stages.
        out_indices: Stages of its levels.
        decisions: 1 = coarse, 0 = fine, shape (B, rows, cols).
        gate_zero: 0 with the gradient of the gate values, which then feel the contrast between what a region's cells
            have coarse and fine, like ``decisions``; or None.

    Returns:
        Shape (B, C_i, h_i, w_i) each, not contiguous: channels are innermost in memory.
    """
    maps = []
    for i, (x, y) in zip(out_indices, encoding.levels, strict=True):
        cells = encoding.active[i].on_cells(x, decisions)
        if gate_zero is not None:
            assert encoding.others is not None and y is not None
            contrast = cells.detach() - encoding.others[i].on_cells(y, 1 - decisions)
            toward_coarse = encoding.active[i].grid.to_cells(gate_zero * (2 * decisions - 1))
            cells = cells + toward_coarse.to(cells).unsqueeze(-1) * contrast
        maps.append(cells.permute(0, 3, 1, 2))  # (B, h, w, C) -> (B, C, h, w)
    return tuple(maps)
