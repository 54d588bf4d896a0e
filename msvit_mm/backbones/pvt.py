"""The parts of PVTv2, each able to work on all tokens of a map or on the active ones alone."""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ..ops.attention import packed_attention
from ..ops.gating import zero_with_gradient
from ..ops.maps import Size, add_at, put_at, to_map, to_tokens
from ..ops.packing import Packing
from ..ops.patches import OpenTokens, depthwise

if TYPE_CHECKING:
    from .routed_pvt import DynamicTokenRoutingTransformer

# Channels, blocks, perceptron's width (times the channels), heads and spatial reduction of the rows, strides 4 to 32.
ARCHS = {
    'b0': dict(embed_dims=(32, 64, 160, 256), depths=(2, 2, 2, 2), mlp_ratios=(8, 8, 4, 4)),
    'b1': dict(embed_dims=(64, 128, 320, 512), depths=(2, 2, 2, 2), mlp_ratios=(8, 8, 4, 4)),
    'b2': dict(embed_dims=(64, 128, 320, 512), depths=(3, 4, 6, 3), mlp_ratios=(8, 8, 4, 4)),
    'b3': dict(embed_dims=(64, 128, 320, 512), depths=(3, 4, 18, 3), mlp_ratios=(8, 8, 4, 4)),
    'b4': dict(embed_dims=(64, 128, 320, 512), depths=(3, 8, 27, 3), mlp_ratios=(8, 8, 4, 4)),
    'b5': dict(embed_dims=(64, 128, 320, 512), depths=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
}
ARCH_DEFAULTS = dict(num_heads=(1, 2, 5, 8), sr_ratios=(8, 4, 2, 1))
NUM_ROWS = 4


def arch_settings(arch: str | dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The four rows' ``embed_dims``, ``depths``, ``mlp_ratios``, ``num_heads`` and ``sr_ratios``.

    Raises:
        ValueError: If the name is unknown, or a dict lacks a word or does not give four values for each.

    Source: Wang et al., "PVT v2: Improved Baselines with Pyramid Vision Transformer", arXiv 2106.13797.

    Example:
        >>> arch_settings('b0')['embed_dims']
        (32, 64, 160, 256)
    """
    if isinstance(arch, str):
        if arch.lower() not in ARCHS:
            raise ValueError(f'arch must be one of {", ".join(map(repr, ARCHS))} or a dict, got {arch!r}')
        arch = ARCHS[arch.lower()]
    settings = {name: tuple(values) for name, values in {**ARCH_DEFAULTS, **arch}.items()}
    wanted = {*ARCH_DEFAULTS, *ARCHS['b0']}
    if set(settings) != wanted or any(len(values) != NUM_ROWS for values in settings.values()):
        raise ValueError(f'arch must give {NUM_ROWS} values for each of {sorted(wanted)}, got {settings}')
    return settings


def row_sizes(image_size: tuple[int, int]) -> list[Size]:
    """(h, w) of the four rows for an image of (height, width) pixels.

    Example:
        >>> row_sizes((100, 132))
        [(25, 33), (13, 17), (7, 9), (4, 5)]
    """
    rows, cols = (-(-side // 4) for side in image_size)
    sizes = [(rows, cols)]
    for _ in range(NUM_ROWS - 1):
        rows, cols = -(-rows // 2), -(-cols // 2)
        sizes.append((rows, cols))
    return sizes


def block_macs(dims: int, hidden_dims: int, sr_ratio: int, size: Size, patch: int = 1) -> tuple[int, int]:
    """Multiply-adds of one block on a map of ``size``: once for the whole map, and per active token.

    Keys and values are computed on the whole map, and so is the depth-wise convolution unless tokens are open or closed
    in patches; queries, output projection and the two layers of the perceptron for the active tokens alone.
    """
    num_tokens, num_keys = math.prod(size), math.prod(side // sr_ratio for side in size)
    reduction = dims**2 * sr_ratio**2 * num_keys if sr_ratio > 1 else 0
    static = 2 * dims**2 * num_keys + reduction
    per_token = 2 * dims**2 + 2 * num_keys * dims + 2 * dims * hidden_dims
    mixing = 9 * hidden_dims
    return (static + mixing * num_tokens, per_token) if patch == 1 else (static, per_token + mixing)


class PatchEmbed(nn.Module):
    """Overlapping patches: a convolution and a norm.

    Args:
        in_dims: Channels of the input.
        embed_dims: Channels of the tokens.
        kernel_size: Side of a patch in pixels, odd.
        stride: Distance of patches in pixels; a side of n pixels becomes ceil(n / stride).
    """

    def __init__(self, in_dims: int, embed_dims: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dims, embed_dims, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, C')."""
        return self.norm(to_tokens(self.proj(x)))

    def forward_sparse(self, tokens: Tensor, norm: nn.LayerNorm, size: Size, packing: Packing) -> Tensor:
        """The packed ones alone of the tokens that :meth:`forward` makes of a normed map, (B, N, C) -> (T, C').

        Args:
            tokens: Of the map, before the norm.
            norm: Before the convolution.
            size: (h, w) of the map.
            packing: Of the patches' tokens.
        """
        side, stride = self.proj.kernel_size[0], self.proj.stride[0]
        rows, cols = size
        across = -(-cols // stride)
        image, cell = packing.index.div(packing.shape[1], rounding_mode='floor'), packing.index % packing.shape[1]
        steps = torch.arange(side, device=cell.device) - side // 2
        y = (cell.div(across, rounding_mode='floor') * stride).unsqueeze(1) + steps
        x = (cell % across * stride).unsqueeze(1) + steps
        inside = ((y >= 0) & (y < rows)).unsqueeze(2) & ((x >= 0) & (x < cols)).unsqueeze(1)
        index = (image.unsqueeze(1) * rows + y.clamp(0, rows - 1)).unsqueeze(2) * cols + x.clamp(0, cols - 1).unsqueeze(
            1
        )
        patches = norm(tokens.flatten(0, 1)[index]) * inside.unsqueeze(-1)  # (T, side, side, C)
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return self.norm(F.linear(patches.flatten(1), weight, self.proj.bias))


class SpatialReductionAttention(nn.Module):
    """Attention of any queries to the keys of their image's whole map, which a strided convolution makes fewer.

    Args:
        dims: Channels.
        num_heads: Heads.
        sr_ratio: A square of this many tokens a side becomes one key.
    """

    def __init__(self, dims: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dims, dims)
        self.kv = nn.Linear(dims, 2 * dims)
        self.proj = nn.Linear(dims, dims)
        self.sr = None
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dims, dims, sr_ratio, sr_ratio)
            self.norm = nn.LayerNorm(dims)

    def forward(self, queries: Tensor, tokens: Tensor, lengths: list[int], size: Size) -> Tensor:
        """Attend.

        Args:
            queries: The images' queries one after the other, shape (T, C).
            tokens: All tokens of the maps, shape (B, N, C).
            lengths: Queries of each image; they sum to T.
            size: (h, w) of the maps.
        """
        return self.attend(queries, *self.keys_and_values(tokens, size), lengths)

    def keys_and_values(self, tokens: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Of whole maps, (B, N, C) -> twice (B, K, heads, C / heads)."""
        if self.sr is not None:
            tokens = self.norm(to_tokens(self.sr(to_map(tokens, size))))
        keys, values = self.kv(tokens).unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        return keys, values

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, lengths: list[int]) -> Tensor:
        """Of queries (T, C), ``lengths`` of each image, to its keys (B, K, heads, C / heads)."""
        queries = self.q(queries).unflatten(-1, (self.num_heads, -1))
        key_lengths = [keys.shape[1]] * len(keys)
        attended = packed_attention(queries, keys.flatten(0, 1), values.flatten(0, 1), lengths, key_lengths)
        return self.proj(attended.flatten(1))


class ConvMLP(nn.Module):
    """Perceptron with a depth-wise convolution, for which closed tokens are zeros as beyond the border."""

    def __init__(self, dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden_dims)
        self.dwconv = nn.Conv2d(hidden_dims, hidden_dims, 3, padding=1, groups=hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, dims)

    def forward(self, tokens: Tensor, gate: Tensor, size: Size) -> Tensor:
        """(B, N, C), with the gate (B, N, 1) of these tokens.

        A closed token, too, sees itself, so that its gate learns what opening it would bring.
        """
        hidden, conv = self.fc1(tokens), self.dwconv
        neighbours = conv.weight * F.pad(conv.weight.new_zeros(1, 1), (1, 1, 1, 1), value=1.0)
        opened = to_map(hidden * gate.detach(), size)
        mixed = to_tokens(F.conv2d(opened, neighbours, conv.bias, padding=1, groups=conv.groups))
        return self.fc2(F.gelu(torch.addcmul(mixed, hidden, conv.weight[:, 0, 1, 1])))

    def forward_sparse(self, packed: Tensor, opened: OpenTokens) -> Tensor:
        """The same for the open tokens alone, (T, C) -> (T, C)."""
        return self.finish(self.fc1(packed), opened, opened)

    def finish(self, hidden: Tensor, opened: OpenTokens, at: OpenTokens, own: Tensor | None = None) -> Tensor:
        """What comes after the first layer.

        Args:
            hidden: Of the open tokens, shape (T, D).
            opened: Which these are.
            at: Of which tokens.
            own: What these, being closed, see of themselves, shape (T', D).

        Returns:
            Shape (T', C).
        """
        parts, first = [], 0
        for mixed in depthwise(self.dwconv, hidden, opened, at):
            if own is not None:
                mixed = torch.addcmul(mixed, own[first : first + len(mixed)], self.dwconv.weight[:, 0, 1, 1])
            parts.append(self.fc2(F.gelu(mixed)))
            first += len(mixed)
        return torch.cat(parts)


class PVTBlock(nn.Module):
    """A block of PVTv2 in which a gate closes single tokens.

    Args:
        dims: Channels.
        num_heads: Heads.
        mlp_ratio: Width of the perceptron, times ``dims``.
        sr_ratio: Spatial reduction of the keys.
        drop_path: Rate of stochastic depth.
    """

    def __init__(self, dims: int, num_heads: int, mlp_ratio: int, sr_ratio: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dims, eps=1e-6)  # unlike the norms after patches and reduction, which have 1e-5
        self.attn = SpatialReductionAttention(dims, num_heads, sr_ratio)
        self.norm2 = nn.LayerNorm(dims, eps=1e-6)
        self.mlp = ConvMLP(dims, int(dims * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, gate: Tensor, size: Size) -> Tensor:
        """All tokens (B, N, C) are computed; where the gate (B, N, 1) is 0 they stay as they are."""
        normed = self.norm1(tokens)
        lengths = [tokens.shape[1]] * len(tokens)
        attended = self.attn(normed.flatten(0, 1), normed, lengths, size).unflatten(0, tokens.shape[:2])
        tokens = tokens + gate * self.drop_path(attended)
        return tokens + gate * self.drop_path(self.mlp(self.norm2(tokens), gate, size))

    def forward_sparse(self, tokens: Tensor, opened: OpenTokens) -> Tensor:
        """The same without gradient for the gate: queries, projection and perceptron of the open tokens alone."""
        packing, normed = opened.packing, self.norm1(tokens)
        packed = packing.pack(tokens) + self.attn(packing.pack(normed), normed, packing.lengths, opened.size)
        return put_at(tokens, packed + self.mlp.forward_sparse(self.norm2(packed), opened), packing)

    def forward_counterfactual(
        self, tokens: Tensor, gate: Tensor, opened: OpenTokens, others: OpenTokens, weight: float
    ) -> Tensor:
        """The same with gradient for the gate, which some of the closed tokens stand in for, each ``weight`` times.

        Closed tokens keep their values, so nobody sees what the blocks would have made of them but their gates.

        Args:
            tokens: Shape (B, N, C).
            gate: Straight-through decisions, shape (B, N, 1).
            opened: The open tokens.
            others: The closed ones that were drawn.
            weight: 1 / the share that was drawn.
        """
        active = opened.packing
        with torch.set_grad_enabled(torch.is_grad_enabled() and len(opened) > 0):  # no others have a backward
            normed = self.norm1(tokens)
            keys, values = self.attn.keys_and_values(normed, opened.size)
        gates = [gate * self.drop_path(gate.new_ones(len(gate), 1, 1)) for _ in range(2)]  # of attention, perceptron
        hidden = tokens.new_empty(0)
        if len(opened):
            attended = self.attn.attend(active.pack(normed), keys, values, active.lengths)
            packed = active.pack(tokens) + active.pack(gates[0]) * attended
            hidden = self.mlp.fc1(self.norm2(packed))
            packed = packed + active.pack(gates[1]) * self.mlp.finish(hidden, opened, opened)
            tokens = put_at(tokens, packed, active)
        if not len(others):
            return tokens
        with torch.no_grad():
            attended = self.attn.attend(others.packing.pack(normed), keys, values, others.packing.lengths)
            own = self.mlp.fc1(self.norm2(others.packing.pack(tokens)))
            transformed = self.mlp.finish(hidden, opened, others, own)
        pulls = [others.packing.pack(weight * zero_with_gradient(x)) for x in gates]
        return add_at(tokens, pulls[0] * attended + pulls[1] * transformed, others.packing)

    def forward_plain(self, tokens: Tensor, size: Size) -> Tensor:
        """The same with all tokens open, without the products with a gate, (B, N, C) -> (B, N, C)."""
        normed, lengths = self.norm1(tokens), [tokens.shape[1]] * len(tokens)
        attended = self.attn(normed.flatten(0, 1), normed, lengths, size).unflatten(0, tokens.shape[:2])
        tokens = tokens + self.drop_path(attended)
        hidden = to_map(self.mlp.fc1(self.norm2(tokens)), size)
        return tokens + self.drop_path(self.mlp.fc2(F.gelu(to_tokens(self.mlp.dwconv(hidden)))))


class PlainPVT(nn.Module):
    """The PVTv2 that a routing space contains, without gates: the blocks of the stages (i, i) on all tokens.

    Args:
        backbone: Where the parts come from, which both share: ``stem``, ``downsamples``, ``norms``, ``nodes``,
            ``out_indices``.
    """

    downsamples: Any  # lists and dicts of modules, whose types torch does not know
    norms: Any
    nodes: Any

    def __init__(self, backbone: 'DynamicTokenRoutingTransformer') -> None:
        super().__init__()
        self.stem = backbone.stem
        self.downsamples = backbone.downsamples
        self.norms = backbone.norms
        self.nodes = nn.ModuleDict({f'{i}_{i}': backbone.nodes[f'{i}_{i}'] for i in range(NUM_ROWS)})
        self.out_indices = backbone.out_indices

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) to a map of every row of ``out_indices``."""
        maps: list[Tensor] = []
        tokens = self.stem(images)
        for i, size in enumerate(row_sizes((images.shape[-2], images.shape[-1]))):
            if i > 0:
                tokens = self.downsamples[i - 1](maps[-1])
            for block in self.nodes[f'{i}_{i}']:
                tokens = block.forward_plain(tokens, size)
            maps.append(to_map(self.norms[i](tokens), size))
        return tuple(maps[i].contiguous() for i in self.out_indices)


def init_pvt_weights(module: nn.Module) -> None:
    """PVTv2's start: truncated normal for linear layers, fan-out normal for convolutions, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d):
        assert module.bias is not None
        nn.init.zeros_(module.bias)
