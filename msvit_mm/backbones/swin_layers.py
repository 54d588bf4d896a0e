"""mmpretrain's Swin blocks and patch merging on packed tokens, and the dense network beside them."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import SwinTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..gates.base import linear_macs
from .layers import HostLayer
from .swin_windows import Layer, StageTokens, Windows, half_step_table, window_attention


def take_drop_path(block: HostLayer) -> float:
    """Take the block's drop path out and return its rate: here it acts per image, not per row of a tensor."""
    rate = float(getattr(block.attn.drop, 'drop_prob', 0.0) or 0.0)
    block.attn.drop = nn.Identity()
    block.ffn.dropout_layer = nn.Identity()
    return rate


def layer_of(block: HostLayer, size: tuple[int, int]) -> Layer:
    """How a block's windows lie on a map of (rows, cols).

    Raises:
        ValueError: If the map is smaller than a window, and may not be padded.
    """
    window, shift, padded = block.attn.window_size, block.attn.shift_size, block.attn.pad_small_map
    if min(size) < window and not padded:
        raise ValueError(
            f'images: wanted maps of {window} x {window} cells or more in every stage, or pad_small_map=True, '
            f'got {size[0]} x {size[1]}'
        )
    return Layer(window, 0 if min(size) == window and not padded else shift)


class Stream(NamedTuple):
    """Tokens on their way through the stages.

    Attributes:
        tokens: In the order of their candidates, (T, C).
        stages: Where they lie in each stage.
    """

    tokens: Tensor
    stages: list[StageTokens]


def run_stages(
    stages: HostLayer,
    active: Stream,
    others: Stream | None = None,
    *,
    norms: Mapping[int, nn.Module],
    key_masks: list[Tensor] | None = None,
    coarse_weight: float = 0.0,
    drop_path: Tensor | None = None,
    with_cp: bool = False,
) -> list[tuple[Tensor, Tensor | None]]:
    """Run the stages.

    Args:
        active: Tokens that attend to one another.
        others: Further tokens that attend to these, unseen by them and without backward.
        norms: Of the stages whose tokens are returned.
        key_masks: Which of the active tokens of each stage are keys, boolean, (T,); None: all.
        coarse_weight: Of :func:`~msvit_mm.backbones.swin_windows.half_step_table`.
        drop_path: Factors of stochastic depth, shape (blocks, 2, B).
        with_cp: Compute each block again in the backward pass instead of keeping what it needs there.

    Returns:
        The active tokens and the others or None, as ``norms`` leave them, stage by stage.
    """
    levels, begin = [], 0
    for i, stage in enumerate(stages):
        end = begin + len(stage.blocks)
        x, y = _run_blocks(
            stage.blocks,
            (active.tokens, active.stages[i]),
            None if others is None else (others.tokens, others.stages[i]),
            None if key_masks is None else key_masks[i],
            coarse_weight,
            None if drop_path is None else drop_path[begin:end],
            with_cp,
        )
        begin = end
        if i in norms:
            with torch.no_grad():
                further = None if y is None else norms[i](y)
            levels.append((norms[i](x), further))
        if stage.downsample is not None:
            active = active._replace(tokens=merge(stage.downsample, x, active.stages[i + 1].siblings(active.stages[i])))
            if others is not None and y is not None:
                siblings = others.stages[i + 1].siblings(others.stages[i])
                with torch.no_grad():
                    others = others._replace(tokens=merge(stage.downsample, y, siblings))
    return levels


def merge(merging: HostLayer, x: Tensor, siblings: Tensor) -> Tensor:
    """The host's patch merging, (T, C) -> (T', 2 C).

    Args:
        siblings: The four tokens that become each one, T for one that there is not, (T', 4).
    """
    x = torch.cat([x, x.new_zeros(1, x.shape[1])]).index_select(0, siblings.flatten())
    x = x.unflatten(0, siblings.shape).mT.flatten(1)  # channels before siblings, as the host unfolds them
    return merging.reduction(x if merging.norm is None else merging.norm(x))


def _run_blocks(
    blocks: HostLayer,
    active: tuple[Tensor, StageTokens],
    others: tuple[Tensor, StageTokens] | None,
    key_mask: Tensor | None,
    coarse_weight: float,
    drop_path: Tensor | None,
    with_cp: bool,
) -> tuple[Tensor, Tensor | None]:
    """Tokens, and further ones, after the blocks of one stage."""
    (x, tokens), (y, further) = active, others or (None, None)
    layers = [layer_of(block, tokens.grid.size) for block in blocks]
    windows = {layer: Windows.of(tokens, layer) for layer in dict.fromkeys(layers)}
    queries = {} if further is None else {layer: Windows.of(further, layer, own) for layer, own in windows.items()}
    run = partial(checkpoint, _run_block, use_reentrant=False) if with_cp else _run_block
    standing: Windows | None = None
    asking: Windows | None = None
    for i, (block, layer) in enumerate(zip(blocks, layers, strict=True)):
        keep = None if drop_path is None else drop_path[i]
        x = windows[layer].take(x, standing)
        standing = windows[layer]
        x, *keys = run(block, x, standing, keep, key_mask, coarse_weight, y is not None)
        if y is not None:
            y = queries[layer].take(y, asking)
            asking = queries[layer]
            y = _run_queries(block, y, asking, keep, keys)
    return windows[layers[-1]].put_back(x), None if y is None else queries[layers[-1]].put_back(y)


def _run_block(
    block: HostLayer,
    x: Tensor,
    windows: Windows,
    keep: Tensor | None,
    key_mask: Tensor | None,
    coarse_weight: float,
    return_keys: bool,
) -> tuple[Tensor, ...]:
    """Tokens after a block and, if asked for, what further queries need: keys, values, those of ghosts, biases."""
    attn = block.attn.w_msa
    query, key, value = attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
    if attn.qkv.bias is None:
        ghost = query.new_zeros(2, *query.shape[1:])
    else:
        ghost = attn.qkv.bias.unflatten(0, (3, attn.num_heads, -1))[1:]
    table = half_step_table(attn.relative_position_bias_table, windows.layer.size, coarse_weight)
    mask = None if key_mask is None else key_mask[windows.order]
    attended = window_attention(query, key, value, ghost, windows, table, attn.scale, _dropout(block), mask)
    x = _finish(block, x, attended, windows, keep)
    return (x, key, value, ghost, table) if return_keys else (x,)


@torch.no_grad()
def _run_queries(block: HostLayer, y: Tensor, windows: Windows, keep: Tensor | None, keys: list[Tensor]) -> Tensor:
    attn = block.attn.w_msa
    bias = None if attn.qkv.bias is None else attn.qkv.bias[: attn.embed_dims]
    query = F.linear(block.norm1(y), attn.qkv.weight[: attn.embed_dims], bias).unflatten(-1, (attn.num_heads, -1))
    key, value, ghost, table = keys
    attended = window_attention(query, key, value, ghost, windows, table, attn.scale, _dropout(block))
    return _finish(block, y, attended, windows, keep)


def _finish(block: HostLayer, x: Tensor, attended: Tensor, windows: Windows, keep: Tensor | None) -> Tensor:
    """The rest of a block after its attention; ``keep`` (2, B) are the factors of stochastic depth."""
    branch = block.attn.w_msa.proj_drop(block.attn.w_msa.proj(attended.flatten(-2)))
    if keep is None:
        x = x + branch
        return block.ffn(block.norm2(x), identity=x)
    first, second = keep[:, windows.image].unsqueeze(-1)
    x = x + branch * first
    return x + block.ffn(block.norm2(x), identity=x.new_zeros(())) * second


def _dropout(block: HostLayer) -> float:
    drop = block.attn.w_msa.attn_drop
    return drop.p if drop.training else 0.0


class DenseSwin(SwinTransformer):
    """mmpretrain's ``SwinTransformer``, which returns itself from ``train`` as torch does."""

    def train(self, mode: bool = True) -> 'DenseSwin':
        super().train(mode)
        return self

    @torch.no_grad()
    def layers_alone(self, images: Tensor) -> Callable[[], object]:
        """A call that runs the stages and nothing else, on the tokens of these images."""
        x, size = self.eval().patch_embed(images)
        return partial(self._run_stages, x, size)

    def _run_stages(self, x: Tensor, size: Any) -> Tensor:
        for stage in self.stages:
            x, size = stage(x, size)
        return x

    @property
    def layer_span(self) -> tuple[nn.Module, nn.Module]:
        """The module whose call begins the stages and the one whose return ends them."""
        return self.stages[0].blocks[0].norm1, self.stages[-1].blocks[-1].ffn

    def count_macs(self, image_size: tuple[int, int]) -> int:
        """Multiply-adds that it dispatches for an image, those for padded cells and masked pairs among them."""
        patch = self.patch_embed.projection
        rows, cols = (-(-n // patch.stride[0]) for n in image_size)
        total = rows * cols * patch.weight.numel()
        for stage in self.stages:
            for block in stage.blocks:
                window, dims = block.attn.window_size, block.norm1.weight.numel()
                padded = math.prod(-(-n // window) * window for n in (rows, cols))
                total += padded * (linear_macs(block.attn) + 2 * dims * window**2) + rows * cols * linear_macs(
                    block.ffn
                )
            if stage.downsample is not None:
                rows, cols = -(-rows // 2), -(-cols // 2)
                total += rows * cols * linear_macs(stage.downsample)
        return total
