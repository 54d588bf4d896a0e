"""Multiply-adds of a vision transformer on tokens of several scales, in closed form."""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..gates.base import linear_macs
from ..ops.macs import encoder_macs
from ..ops.scales import by_scale
from ..ops.tiling import Tiling, nodes_of
from .base import Costs
from .coarse import detail_macs
from .layers import PackedSequences, Passed

if TYPE_CHECKING:
    from .msvit import MSViT


def mixed_costs(host: 'MSViT', slots: Tensor, tiling: Tiling, passed: Passed | None = None) -> Costs:
    """Costs of images under their active slots (B, R, slots).

    Args:
        passed: What the layers returned, where steps between them may change the tokens.
    """
    num_tokens, num_pairs = slots.flatten(1).sum(1), None
    layers = num_tokens.expand(host.num_layers, -1) + host.num_extra_tokens
    if host.attention_scope == 'region':
        num_pairs = slots.sum(-1).square().sum(-1)
    if host.between and passed is not None:
        sequences = cast(list[PackedSequences], passed.sequences)
        layers, num_pairs = map(torch.stack, zip(*(x.count(len(slots)) for x in sequences), strict=True))
    gate = torch.full_like(num_tokens, host.gate.macs(tiling), dtype=torch.float64)
    embedding = num_tokens.double() * host.patch_embed.projection.weight.numel()
    encoder = _layer_macs(host, layers, num_pairs)
    if passed is not None and passed.last.macs is not None:
        encoder = encoder + passed.last.macs.unflatten(0, (len(slots), -1)).sum(1)
    for scale, pixels in zip(tiling.scales, by_scale(host.coarse_pixels), strict=False):
        embedding = embedding + nodes_of(slots, scale) * pixels.weight.numel()
    embedding = embedding + detail_macs(host.detail, slots, tiling)
    return Costs(layers - host.num_extra_tokens, gate, embedding, encoder, dense_costs(host, tiling).reference)


def dense_costs(host: 'MSViT', tiling: Tiling) -> Costs:
    """Costs of one image in the dense network, all of whose tokens are cells."""
    num_tokens = torch.tensor([tiling.num_cells])
    layers = num_tokens.expand(host.num_layers, -1)
    embedding = num_tokens.double() * host.patch_embed.projection.weight.numel()
    encoder = _layer_macs(host, layers + host.num_extra_tokens)
    return Costs(layers, torch.zeros_like(encoder), embedding, encoder, int((embedding + encoder).item()))


def _layer_macs(host: 'MSViT', num_tokens: Tensor, num_pairs: Tensor | None = None) -> Tensor:
    """Multiply-adds of the layers with tokens (layers, B), class tokens among them, and pairs alike or None."""
    ffn_macs: Any = num_tokens.new_tensor([linear_macs(layer.ffn) for layer in host.layers])[:, None]
    num_pairs = None if num_pairs is None else num_pairs.double()
    return encoder_macs(num_tokens.double(), host.embed_dims, ffn_macs, 1, num_pairs).sum(0)
