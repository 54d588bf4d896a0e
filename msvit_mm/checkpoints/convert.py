"""Turn weights of a plain vision transformer, whoever saved them, into ``MSViT``'s; PVTv2's and Swin's likewise.

Every key of the source is renamed or dropped by a rule of the tables below; a key that no rule explains is an error.
What the names cannot tell is not guessed: the number of heads, which only Swin's biases tell, the epsilon of the norms,
the input normalisation.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmpretrain.models.backbones import SwinTransformer, VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor
from torch.nn import functional as F

from ..backbones.swin_windows import resize_bias_table
from .loading import _first, check_shapes, check_values, metadata_of

_MM = (  # mmpretrain's names are MSViT's own; mmseg's differ in attention and pre-norm
    (r'cls_token|reg_token|pos_embed', r'\g<0>'),
    (r'(patch_embed\.projection|pre_norm|ln1)\.(weight|bias)', r'\g<0>'),
    (r'layers\.\d+\.(ln[12]|attn\.(qkv|proj)|ffn\.layers\.(0\.0|1))\.(weight|bias)', r'\g<0>'),
    (r'layers\.\d+\.ffn\.w(12|3)\.(weight|bias)', r'\g<0>'),
    (r'layers\.\d+\.(attn\.gamma1|ffn\.gamma2)\.weight', r'\g<0>'),
)
_BLOCK = r'(\d+)\.(norm[12]|attn\.(?:q|kv|proj|sr|norm)|mlp\.(?:fc[12]|dwconv))(?:\.dwconv)?\.(weight|bias)'
_EMBED = r'(proj|norm)\.(weight|bias)'  # PVTv2's patch embeddings: the stem and those between its stages
_TABLE = r'relative_position_bias_table'
_SWIN = (  # what Swin's authors and timm name alike
    (r'patch_embed\.proj\.(weight|bias)', r'patch_embed.projection.\1'),
    (r'(patch_embed\.norm|norm\d)\.(weight|bias)|absolute_pos_embed', r'\g<0>'),
    (r'layers\.(\d)\.blocks\.(\d+)\.norm([12])\.(weight|bias)', r'stages.\1.blocks.\2.norm\3.\4'),
    (r'layers\.(\d)\.blocks\.(\d+)\.attn\.(qkv|proj)\.(weight|bias)', r'stages.\1.blocks.\2.attn.w_msa.\3.\4'),
    (rf'layers\.(\d)\.blocks\.(\d+)\.attn\.{_TABLE}', rf'stages.\1.blocks.\2.attn.w_msa.{_TABLE}'),
    (r'layers\.(\d)\.blocks\.(\d+)\.mlp\.fc1\.(weight|bias)', r'stages.\1.blocks.\2.ffn.layers.0.0.\3'),
    (r'layers\.(\d)\.blocks\.(\d+)\.mlp\.fc2\.(weight|bias)', r'stages.\1.blocks.\2.ffn.layers.1.\3'),
)
_MERGING = r'downsample\.(norm|reduction)\.(weight|bias)'
# Family: (a key that tells it, ordered pairs of a pattern of the whole key and its replacement).
RULES = {
    'timm': (  # also the names of DeiT, DeiT III, DINOv2 and DINOv3
        r'blocks\.\d+\.attn\.qkv\.weight',
        (
            (r'cls_token|pos_embed', r'\g<0>'),
            (r'reg_token|register_tokens|storage_tokens', 'reg_token'),
            (r'patch_embed\.proj\.(weight|bias)', r'patch_embed.projection.\1'),
            (r'norm_pre\.(weight|bias)', r'pre_norm.\1'),
            (r'norm\.(weight|bias)', r'ln1.\1'),
            (r'blocks\.(\d+)\.norm([12])\.(weight|bias)', r'layers.\1.ln\2.\3'),
            (r'blocks\.(\d+)\.attn\.(qkv|proj)\.(weight|bias)', r'layers.\1.attn.\2.\3'),
            (r'blocks\.(\d+)\.mlp\.fc1\.(weight|bias)', r'layers.\1.ffn.layers.0.0.\2'),
            (r'blocks\.(\d+)\.mlp\.fc2\.(weight|bias)', r'layers.\1.ffn.layers.1.\2'),
            (r'blocks\.(\d+)\.mlp\.w(12|3)\.(weight|bias)', r'layers.\1.ffn.w\2.\3'),
            (r'blocks\.(\d+)\.(ls1\.gamma|gamma_1)', r'layers.\1.attn.gamma1.weight'),
            (r'blocks\.(\d+)\.(ls2\.gamma|gamma_2)', r'layers.\1.ffn.gamma2.weight'),
        ),
    ),
    'mmseg': (
        r'layers\.\d+\.attn\.attn\.in_proj_weight',
        (
            *_MM,
            (r'ln_pre\.(weight|bias)', r'pre_norm.\1'),
            (r'layers\.(\d+)\.attn\.attn\.in_proj_(weight|bias)', r'layers.\1.attn.qkv.\2'),
            (r'layers\.(\d+)\.attn\.attn\.out_proj\.(weight|bias)', r'layers.\1.attn.proj.\2'),
        ),
    ),
    'mmpretrain': (r'layers\.\d+\.attn\.qkv\.weight', _MM),
    'timm PVTv2': (
        r'stages\.\d+\.blocks\.\d+\.attn\.kv\.weight',
        (
            (rf'patch_embed\.{_EMBED}', r'stem.\1.\2'),
            *((rf'stages\.{i}\.downsample\.{_EMBED}', rf'downsamples.{i - 1}.\1.\2') for i in (1, 2, 3)),
            (rf'stages\.(\d)\.blocks\.{_BLOCK}', r'nodes.\1_\1.\2.\3.\4'),
            (r'stages\.(\d)\.norm\.(weight|bias)', r'norms.\1.\2'),
        ),
    ),
    'PVTv2': (  # its authors' names
        r'block1\.\d+\.attn\.kv\.weight',
        (
            (rf'patch_embed1\.{_EMBED}', r'stem.\1.\2'),
            *((rf'patch_embed{i + 1}\.{_EMBED}', rf'downsamples.{i - 1}.\1.\2') for i in (1, 2, 3)),
            *((rf'block{i + 1}\.{_BLOCK}', rf'nodes.{i}_{i}.\1.\2.\3') for i in range(4)),
            *((rf'norm{i + 1}\.(weight|bias)', rf'norms.{i}.\1') for i in range(4)),
        ),
    ),
    'Swin': (  # its authors' names, with a merging at the end of a stage
        r'layers\.0\.downsample\.reduction\.weight',
        (*_SWIN, (rf'layers\.(\d)\.{_MERGING}', r'stages.\1.downsample.\2.\3')),
    ),
    'timm Swin': (  # with a merging at the begin of the next one
        rf'layers\.\d+\.blocks\.\d+\.attn\.{_TABLE}',
        (*_SWIN, *((rf'layers\.{i + 1}\.{_MERGING}', rf'stages.{i}.downsample.\1.\2') for i in range(3))),
    ),
    'mmpretrain Swin': (  # MSSwin's own names; also mmseg's
        rf'stages\.\d+\.blocks\.\d+\.attn\.w_msa\.{_TABLE}',
        (
            (r'(patch_embed\.(projection|norm)|norm\d)\.(weight|bias)|absolute_pos_embed', r'\g<0>'),
            (r'stages\.\d\.blocks\.\d+\.(norm[12]|ffn\.layers\.(0\.0|1))\.(weight|bias)', r'\g<0>'),
            (rf'stages\.\d\.blocks\.\d+\.attn\.w_msa\.((qkv|proj)\.(weight|bias)|{_TABLE})', r'\g<0>'),
            (rf'stages\.\d\.{_MERGING}', r'\g<0>'),
        ),
    ),
}
SWINS = ('Swin', 'timm Swin', 'mmpretrain Swin')  # for MSSwin
PYRAMIDS = ('timm PVTv2', 'PVTv2', *SWINS)  # the others for DynamicTokenRoutingTransformer
SWIN_V2 = r'.+\.attn\.(w_msa\.)?(logit_scale|cpb_mlp\..+)'
DROPS = (
    (r'(head|head_dist|pre_logits|attn_pool|dino_head|ibot_head|decode_head|auxiliary_head|neck)\..+', 'a head'),
    (r'(fc_norm|ln2)\.(weight|bias)', 'norm after pooling, part of a head'),
    (r'data_preprocessor\..+|gate_loss\..+', 'not weights of a backbone'),
    (r'gate\..+', "an MSViT's gate, which plain weights do not have"),
    (r'mask_token|decoder_.+', 'for masked pretraining only'),
    (r'dist_token', 'MSViT has no distillation token: features differ from the source'),
    (r'rope_embed\.periods', 'computed from the temperature'),
    (r'(layers|stages)\..+\.(attn_mask|relative_position_index)', 'computed from the windows'),
)
REGISTERS = ('reg_token', 'register_tokens', 'storage_tokens')
# An absent bias and a zero one are the same function.
ZERO_BIASES = r'(patch_embed\.projection|layers\.\d+\.attn\.qkv)\.bias'


@dataclass
class Conversion:
    """Weights under the target's names, and what became of every key of the source.

    Attributes:
        state_dict: Weights by the names of MSViT, DynamicTokenRoutingTransformer or MSSwin.
        family: Whose names the source had, a key of `RULES`.
        extra_tokens: How many tokens beside the patches the source has, of each kind: class, distillation, register.
        renamed: New name of every used key, also where it is the old one.
        dropped: Reason for every key not used.
        resampled, filled: What was resized, and what was added, one sentence each.
        grid: Rows and columns of the source's positions, where the file says them.
        missing: Keys of the target that the source lacks by nature: the gate's, and those of nodes that PVTv2 has not.
    """

    state_dict: dict[str, Tensor]
    family: str
    extra_tokens: tuple[int, int, int]
    renamed: dict[str, str]
    dropped: dict[str, str]
    grid: tuple[int, int] | None = None
    resampled: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def is_pyramid(self) -> bool:
        """Whether the weights are of a network whose maps shrink, PVTv2 or Swin."""
        return self.family in PYRAMIDS

    def report(self) -> dict[str, Any]:
        """What became of the keys, as plain values."""
        names = ('renamed', 'resampled', 'filled', 'dropped', 'missing')
        return {name: getattr(self, name).copy() for name in names} | {'unexpected': []}

    def format_report(self) -> str:
        """The report as text, one line per kind of key."""
        changed = [f'{old} -> {new}' for old, new in self.renamed.items() if old != new]
        dropped = [f'{key} ({reason})' for key, reason in self.dropped.items()]
        parts = dict(renamed=changed, resampled=self.resampled, filled=self.filled, dropped=dropped)
        parts |= dict(missing=self.missing, unexpected=[])
        lines = [f'family      {self.family}', f'used        {len(self.renamed)} tensors']
        for name, entries in parts.items():
            lines += [f'{name:12}{line}' for line in _collapse(entries)] or [f'{name:12}none']
        return '\n'.join(lines)


def rename_keys(weights: Mapping[str, Tensor], prefix: str | None = None) -> Conversion:
    """Give the weights of a plain vision transformer MSViT's names, those of PVTv2 a routing space's, Swin's MSSwin's.

    Args:
        weights: Tensors by name; a leading ``module.`` of all of them is ignored.
        prefix: Which of several backbones in the file, such as ``'backbone'``; found where there is one.

    Raises:
        ValueError: If there is none of them, more than one, a Swin V2, or a key that no rule explains.

    Example:
        >>> names = ['pos_embed', 'patch_embed.proj.weight', 'blocks.0.attn.qkv.weight', 'head.weight']
        >>> conversion = rename_keys({name: torch.zeros(1) for name in names})
        >>> list(conversion.state_dict)
        ['pos_embed', 'patch_embed.projection.weight', 'layers.0.attn.qkv.weight']
        >>> conversion.dropped
        {'head.weight': 'a head'}
    """
    stated = metadata_of(weights)
    if all(key.startswith('module.') for key in weights):
        weights = {key.removeprefix('module.'): tensor for key, tensor in weights.items()}
    weights, joined = join_parts(weights)
    chosen = _choose_prefix(weights, prefix)
    inner = {key: key.removeprefix(chosen) for key in weights if key.startswith(chosen)}
    if second := [key for key in inner.values() if re.fullmatch(SWIN_V2, key)]:
        raise ValueError(f'wanted a Swin V1, whose biases are a table, got a Swin V2: {_first(second)}.')
    families = (name for name, (mark, _) in RULES.items() if any(re.fullmatch(mark, key) for key in inner.values()))
    if (family := next(families, None)) is None:
        raise ValueError(f'wanted a plain vision transformer of {", ".join(RULES)}, got {_first(inner)}.')

    rules, state_dict, renamed, dropped, unexplained = _rules_of(family, inner.values()), {}, {}, {}, []
    for key, tensor in weights.items():
        name = inner.get(key, key)
        new = next((m.expand(to) for rule, to in rules if (m := re.fullmatch(rule, name))), None)
        reason = next((reason for rule, reason in DROPS if re.fullmatch(rule, name)), None)
        if prefix is not None and key not in inner:
            dropped[key] = f"outside of the chosen prefix '{chosen}'"
        elif key in inner and new is not None and new not in state_dict and getattr(tensor, 'ndim', 0) > 0:
            state_dict[new], renamed[key] = tensor, new
        elif new is None and reason is not None:
            dropped[key] = reason
        else:
            unexplained.append(key)
    if unexplained:
        raise ValueError(
            f'no rule of {family} explains {len(unexplained)} of {len(weights)} keys: {_first(unexplained)}.'
        )
    check_values(state_dict, 'the weights')
    if family in ('Swin', 'timm Swin'):
        merged = [key for key in state_dict if re.fullmatch(rf'stages\.\d\.{_MERGING}', key)]
        state_dict |= {key: order_siblings(state_dict[key]) for key in merged}
        joined += [f"{key} in the host's order of siblings" for key in merged]
    tensors = {name: weights[key] for key, name in inner.items()}
    registers = [tensors[name].shape[1] for name in REGISTERS if name in tensors]
    extra_tokens = int('cls_token' in tensors), int('dist_token' in tensors), sum(registers)
    rotary = 'pos_embed' not in state_dict and 'patch_embed.projection.weight' in state_dict
    if family == 'timm' and rotary and extra_tokens[2] != 4:
        raise ValueError(
            'wanted position embeddings, or the rotary positions of DINOv3, which come with 4 registers, got neither: '
            f'no pos_embed, {extra_tokens[2]} registers; other rotary positions turn otherwise.'
        )
    grid = stated.get(chosen[:-1], {}).get('position_grid')
    return Conversion(state_dict, family, extra_tokens, renamed, dropped, grid, filled=joined)


def join_parts(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """What timm's EVA and DINOv3 keep apart as the one tensor that it is elsewhere, and a sentence for each.

    Biases of query and value beside a key without one; gate and value of a SwiGLU; biases and which of them count.

    Example:
        >>> parts = {'blocks.0.attn.q_bias': torch.ones(1), 'blocks.0.attn.v_bias': torch.ones(1)}
        >>> join_parts(parts)
        ({'blocks.0.attn.qkv.bias': tensor([1., 0., 1.])}, ['blocks.0.attn.qkv.bias from q_bias and v_bias'])
    """
    weights, joined = dict(weights), []
    for key in list(weights):
        if (match := re.fullmatch(r'(.*blocks\.\d+\.attn\.)q_bias', key)) and f'{match[1]}v_bias' in weights:
            query, value = weights.pop(key), weights.pop(f'{match[1]}v_bias')
            weights[f'{match[1]}qkv.bias'] = torch.cat([query, torch.zeros_like(query), value])
            joined.append(f'{match[1]}qkv.bias from q_bias and v_bias')
        elif match := re.fullmatch(r'(.*blocks\.\d+\.mlp\.)(fc1_g|w1)\.(weight|bias)', key):
            base, gate, kind = match.groups()
            other = 'fc1_x' if gate == 'fc1_g' else 'w2'
            if f'{base}{other}.{kind}' not in weights:
                continue
            weights[f'{base}w12.{kind}'] = torch.cat([weights.pop(key), weights.pop(f'{base}{other}.{kind}')])
            joined.append(f'{base}w12.{kind} from {gate} and {other}')
            if gate == 'fc1_g' and f'{base}fc2.{kind}' in weights:
                weights[f'{base}w3.{kind}'] = weights.pop(f'{base}fc2.{kind}')
        elif (match := re.fullmatch(r'(.*blocks\.\d+\.attn\.qkv\.)bias_mask', key)) and f'{match[1]}bias' in weights:
            mask, bias = weights.pop(key), weights[f'{match[1]}bias']
            weights[f'{match[1]}bias'] = torch.where(mask == 1, bias, torch.zeros_like(bias))
            joined.append(f'{match[1]}bias by its mask')
    return weights, joined


def order_siblings(x: Tensor) -> Tensor:
    r"""Bring the channels of 2 x 2 merged cells from the order of Swin's authors to that of ``nn.Unfold``.

    .. math:: (x, y, c) \to (c, y, x)

    Args:
        x: Shape (..., 4 C): C channels of the upper left cell, of the lower left, the upper right, the lower right.

    Raises:
        ValueError: If the last dimension is no multiple of 4.

    Example:
        >>> order_siblings(torch.tensor([0, 1, 2, 3, 4, 5, 6, 7]))  # of two channels
        tensor([0, 4, 2, 6, 1, 5, 3, 7])
    """
    if x.shape[-1] % 4:
        raise ValueError(f'downsample: wanted the channels of 2 x 2 merged cells, got {x.shape[-1]}.')
    return x.unflatten(-1, (2, 2, -1)).transpose(-1, -3).flatten(-3)


def describe_backbone(
    conversion: Conversion, patch_size: int = 16, arch: str | None = None, source_grid: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Constructor words of the backbone that the weights fit; the image is as large as the source's positions cover.

    Args:
        conversion: Of :func:`rename_keys`. Of a pyramid, the sizes are read off the weights, the heads are PVTv2's.
            A Swin's image is as large as makes its last map one window.
        patch_size: Of the MSViT, in pixels.
        arch: Name of the host's architecture; by default the one that has the weights' sizes.
        source_grid: Rows and columns of the source's positions; by default as the file says, or else square.

    Raises:
        ValueError: If no architecture of the host has these sizes: the number of heads is not in the weights.
    """
    state = conversion.state_dict
    if conversion.family in SWINS:
        return _describe_swin(state, arch)
    if conversion.is_pyramid:
        return dict(arch=_pyramid_arch(state) if arch is None else arch)
    gated = len(state.get('layers.0.ffn.w12.weight', ()))  # twice what the host makes of two thirds of its channels
    sizes = dict(
        embed_dims=len(state['patch_embed.projection.weight']),
        num_layers=len({key.split('.')[1] for key in state if key.startswith('layers.')}),
        feedforward_channels=gated * 3 // 4 or len(state.get('layers.0.ffn.layers.0.0.weight', ())),
    )
    rotary = 'pos_embed' not in state
    named = (dict(known) for known in VisionTransformer.arch_zoo.values() if sizes.items() <= known.items())
    dinov3 = sizes | dict(num_heads=sizes['embed_dims'] // 64) if rotary else None  # S+ is no architecture of the host
    if (known_arch := arch or next(named, dinov3)) is None:
        raise ValueError(f'wanted the sizes of a named architecture, got {sizes}; name the backbone by --config.')
    rows, columns = (14, 14) if rotary else _position_grid(conversion, source_grid)[0]
    img_size = patch_size * rows, patch_size * columns
    words: dict[str, Any] = dict(arch=known_arch, img_size=img_size, patch_size=patch_size)
    if 'layers.0.attn.gamma1.weight' in state:
        words |= dict(layer_scale_init_value=1e-5)  # any positive value: the weights replace it
    if 'cls_token' not in state:
        words |= dict(with_cls_token=False)
    if 'ln1.weight' not in state:
        words |= dict(final_norm=False)
    if 'pre_norm.weight' in state:
        words |= dict(pre_norm=True)
    if gated:
        words |= dict(layer_cfgs=dict(ffn_type='swiglu_fused'))
    if conversion.extra_tokens[2]:
        words |= dict(num_registers=conversion.extra_tokens[2])
    if rotary:  # DINOv3's
        words |= dict(rope=dict(temperature=100.0), norm_cfg=dict(type='LN', eps=1e-5))
    return words


def fit_weights(
    conversion: Conversion,
    backbone: Any,
    grid: tuple[int, int] | None,
    source_grid: tuple[int, int] | None = None,
) -> None:
    """Bring converted weights to the sizes of a backbone, in place.

    Args:
        conversion: Of :func:`rename_keys`; its state dict afterwards holds what the backbone has but its ``additions``.
        backbone: An MSViT, for PVTv2 a DynamicTokenRoutingTransformer, for Swin an MSSwin.
        grid: Rows and columns of its position embedding; a pyramid has none.
        source_grid: Rows and columns of the source's; by default as the file says, or else square.

    Raises:
        ValueError: If keys are missing or unexpected, one has rotary positions and the other has not, the registers
            differ in number, or a shape other than that of patches, positions and bias tables differs.
    """
    state, target = conversion.state_dict, backbone.state_dict()
    if conversion.family in SWINS:
        _fit_swin(conversion, target)
    if not conversion.is_pyramid:
        _check_kind(target, state)
    for key in target:
        weight = key.removesuffix('bias') + 'weight'
        if key not in state and weight in state and re.fullmatch(ZERO_BIASES, key):
            state[key] = torch.zeros_like(target[key])
            conversion.filled.append(f'{key} with zeros')
    conversion.missing = [key for key in target if re.fullmatch(backbone.additions, key)]
    missing = [key for key in target if key not in state and key not in conversion.missing]
    unexpected = [key for key in state if key not in target]
    if missing or unexpected:
        parts = [f'{len(missing)} missing: {_first(missing)}'] if missing else []
        parts += [f'{len(unexpected)} unexpected: {_first(unexpected)}'] if unexpected else []
        raise ValueError(f'the weights do not fit the backbone, keys {"; ".join(parts)}.')

    if conversion.is_pyramid:
        return check_shapes(target, state)
    if 'pos_embed' in state:
        assert grid is not None
        _fit_positions(conversion, grid, source_grid)
    name = 'patch_embed.projection.weight'
    old, new = state[name].shape[2:], target[name].shape[2:]
    if old != new and len(old) == 2:
        state[name] = resize_patch_kernel(state[name], (new[0], new[1]))
        conversion.resampled.append(f'{name}, {_by(old)} to {_by(new)} pixels')
    check_shapes(target, state)


def _fit_swin(conversion: Conversion, target: Mapping[str, Tensor]) -> None:
    """What depends on windows and on which maps are returned."""
    state, earlier = conversion.state_dict, tuple(f'norm{i}.' for i in range(_count_stages(target) - 1))
    for old, new in list(conversion.renamed.items()):
        if re.fullmatch(r'norm\d\..+', new) and new not in target:
            del state[new], conversion.renamed[old]
            conversion.dropped[old] = 'norm of a map that the backbone does not return'
    for key, own in target.items():
        if key in state and key.endswith(_TABLE) and len(state[key]) != len(own):
            conversion.resampled.append(f'{key}, windows of {_window_size(state[key])} to {_window_size(own)} cells')
            state[key] = resize_bias_table(state[key], len(own))
        elif key not in state and key.endswith('relative_position_index'):
            state[key] = own
            conversion.filled.append(f'{key} by the windows')
        elif key not in state and key.startswith(earlier):
            state[key] = own
            conversion.filled.append(f'{key} as it begins: a classifier has none')


def _check_kind(target: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    kinds = {True: 'a position embedding', False: 'rotary positions'}
    wanted, got = ('pos_embed' in x for x in (target, state))
    if wanted != got:
        raise ValueError(f'pos_embed: wanted weights of {kinds[wanted]}, as the backbone has, got {kinds[got]}.')
    registers = [0 if 'reg_token' not in x else x['reg_token'].shape[1] for x in (target, state)]
    if registers[0] != registers[1]:
        raise ValueError(f'registers: wanted {registers[0]}, as the backbone has (num_registers), got {registers[1]}.')


def _fit_positions(conversion: Conversion, grid: tuple[int, int], source_grid: tuple[int, int] | None) -> None:
    state = conversion.state_dict
    old_grid, extra = _position_grid(conversion, source_grid)
    rows = state['pos_embed']
    positions, registers = rows[:, extra:], conversion.extra_tokens[2]
    if registers and extra == sum(conversion.extra_tokens):
        extra -= registers
        state['reg_token'] = state['reg_token'] + rows[:, extra : extra + registers]
        conversion.filled.append('reg_token with the positions of the registers')
    if conversion.extra_tokens[0]:
        if extra == 0:
            conversion.filled.append("the class token's position with zeros")
        if extra > 1:
            conversion.dropped[f'pos_embed[1:{extra}]'] = 'positions of dropped tokens'
        positions = torch.cat([rows[:, :1] if extra else torch.zeros_like(rows[:, :1]), positions], dim=1)
    state['pos_embed'] = resize_pos_embed(positions, old_grid, grid, num_extra_tokens=conversion.extra_tokens[0])
    if old_grid != tuple(grid):
        conversion.resampled.append(f'pos_embed, {_by(old_grid)} to {_by(grid)} cells')


def resize_patch_kernel(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a patch embedding so that resized patches keep their tokens: exact upwards, least squares downwards.

    Args:
        kernel: Weights of the convolution, shape (C, 3, h, w).
        size: The new (height, width) in pixels.

    Source: Beyer et al., "FlexiViT: One Model for All Patch Sizes", CVPR 2023, section 3.4.
    """
    old = kernel.shape[-2:]
    basis = torch.eye(math.prod(old), dtype=torch.float64).view(-1, 1, *old)
    resize = F.interpolate(basis, size=tuple(size), mode='bicubic', antialias=True).flatten(1)  # (h * w, new pixels)
    flat = kernel.double().flatten(2) @ torch.linalg.pinv(resize).T  # (C, 3, h * w) -> (C, 3, new pixels)
    return flat.unflatten(-1, tuple(size)).to(kernel.dtype)


def _choose_prefix(keys: Iterable[str], wanted: str | None) -> str:
    matches = (re.fullmatch(r'((?:.+\.)?)patch_embed1?\.proj(?:ection)?\.weight', key) for key in keys)
    found = [match[1] for match in matches if match]
    if wanted:
        wanted = wanted.rstrip('.') + '.'
    if wanted is None and len(found) == 1:
        return found[0]
    if wanted is None or wanted not in found:
        got = f'the prefixes {found}; choose by --prefix' if found else _first(keys)
        raise ValueError(f'wanted one patch_embed{"" if wanted is None else f" below {wanted!r}"}, got {got}.')
    return wanted


def _rules_of(family: str, names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The rules of a family; a classifier's norm is in a Swin that of the last map."""
    rules: tuple[tuple[str, str], ...] = RULES[family][1]
    return (*rules, (r'norm\.(weight|bias)', rf'norm{_count_stages(names) - 1}.\1')) if family in SWINS else rules


def _count_stages(names: Iterable[str]) -> int:
    return len({key.split('.')[1] for key in names if key.startswith(('layers.', 'stages.'))})


def _position_grid(conversion: Conversion, grid: tuple[int, int] | None) -> tuple[tuple[int, int], int]:
    """Rows and columns of the source's positions, and how many other tokens come before them."""
    rows = conversion.state_dict.get('pos_embed', torch.empty(0))
    if rows.ndim != 3:
        raise ValueError(f'pos_embed: wanted shape (1, positions, channels), got {tuple(rows.shape)}.')
    tokens, grid = conversion.extra_tokens, grid or conversion.grid
    # In timm's family not every model gives all tokens a position.
    choices = (sum(tokens), sum(tokens[:2]), tokens[0], 0) if conversion.family == 'timm' else (sum(tokens[:2]),)
    for extra in choices:
        count = rows.shape[1] - extra
        side = math.isqrt(max(count, 0))
        height, width = grid or (side, side)
        if count > 0 and height * width == count:
            return (height, width), extra
    wanted = f'{_by(grid)} positions' if grid else 'a square grid of positions'
    raise ValueError(f'pos_embed: wanted {wanted}, got {rows.shape[1]} rows; give --source-grid ROWS COLUMNS.')


def _pyramid_arch(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    blocks = [f'nodes.{i}_{i}.0' for i in range(4)]
    dims = tuple(len(state[f'{block}.attn.q.weight']) for block in blocks)
    hidden = [len(state[f'{block}.mlp.fc1.weight']) for block in blocks]
    depths = tuple(len({key.split('.')[2] for key in state if key.startswith(f'nodes.{i}_{i}.')}) for i in range(4))
    ratios = tuple(h // c for h, c in zip(hidden, dims, strict=True))
    return dict(embed_dims=dims, depths=depths, mlp_ratios=ratios)


def _describe_swin(state: Mapping[str, Tensor], arch: str | None) -> dict[str, Any]:
    count, kernel = _count_stages(state), state['patch_embed.projection.weight']
    tables = [state.get(f'stages.{i}.blocks.0.attn.w_msa.{_TABLE}', torch.empty(0)) for i in range(count)]
    if any(table.ndim != 2 for table in tables):
        raise ValueError(f'{_TABLE}: wanted one of shape (offsets, heads) in each of {count} stages, got others.')
    names = [f'stages.{i}.blocks.' for i in range(count)]
    sizes = dict(
        embed_dims=len(kernel),
        depths=[len({key.split('.')[3] for key in state if key.startswith(name)}) for name in names],
        num_heads=[table.shape[1] for table in tables],
    )
    named = (name for name, known in SwinTransformer.arch_zoo.items() if known == sizes and len(name) > 1)
    patch_size, window_size = kernel.shape[-1], _window_size(tables[0])
    stride = patch_size * 2 ** (count - 1)
    words = dict(
        arch=arch or next(named, sizes),
        img_size=(stride * window_size, stride * window_size),
        patch_size=patch_size,
        region_size=stride,
        window_size=window_size,
        out_indices=tuple(i for i in range(count) if f'norm{i}.weight' in state),
    )
    return words | dict(use_abs_pos_embed=True) if 'absolute_pos_embed' in state else words


def _window_size(table: Tensor) -> int:
    return (math.isqrt(len(table)) + 1) // 2


def _by(size: Iterable[int]) -> str:
    return ' x '.join(map(str, size))


def _collapse(entries: Iterable[str]) -> list[str]:
    """Merge what differs in the layer's number alone."""
    entries = (re.sub(r'nodes\.\d_\d\.\d+\.', 'nodes.*.*.', entry) for entry in entries)
    entries = (re.sub(r'\bblock\d\.\d+\.', 'block*.*.', entry) for entry in entries)
    layers = r'(?<!ffn\.)\b(blocks|layers|stages|downsamples|norms)\.\d+\.'
    counts = Counter(re.sub(layers, r'\1.*.', entry) for entry in entries)
    return [line if count == 1 else f'{line} ({count})' for line, count in counts.items()]
