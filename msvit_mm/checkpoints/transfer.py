"""Move a trained gate, and what the gate loss has learned about it, from one model to another.

A gate sees nothing but the pixels of a region. So it fits any model whose regions are of the same size, whatever its
task, its backbone and the size of its images; only the normalisation of the pixels may have to be folded into it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..backbones.base import HostModel
from ..ops.priors import resample_prior
from .loading import _first, check_coverage, check_shapes

GATE = 'backbone.gate.'
PRIORS = ('gate_loss.mean_logits', 'gate_loss.log_temperatures')


def load_gate(model: HostModel, weights: Mapping[str, Tensor]) -> None:
    """Load the gate of a checkpoint, with the priors of its gate loss, into the model that its config builds.

    Raises:
        ValueError: If model or weights have no gate that can move, or keys or shapes of the two differ.
    """
    _layout(model, 'source')
    weights = {key.removeprefix('module.'): tensor for key, tensor in weights.items()}
    wanted, got = (
        {key: tensor for key, tensor in state.items() if key.startswith(GATE) or key in PRIORS}
        for state in (model.state_dict(), weights)
    )
    if not any(key.startswith(GATE) for key in got):
        raise ValueError(f"the source has no gate: wanted weights below '{GATE}', got {_first(weights)}.")
    check_coverage(wanted, got)
    if unexpected := got.keys() - wanted.keys():
        raise ValueError(f"the checkpoint does not fit the source's config: unexpected {_first(sorted(unexpected))}.")
    check_shapes(wanted, got)
    model.load_state_dict(got, strict=False)


def transfer_gate(source: HostModel, target: HostModel) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Weights that give the target the source's gate and priors.

    Both models see the same images, in the channel order of the hosts' loaders, through their own
    ``data_preprocessor``. The target's gate logits are then those of the source, up to rounding, except where a region
    is padded at the image's border and the means differ: padding is 0 after normalisation, another colour to each.

    Args:
        source: A model over a gated backbone that holds its weights.
        target: The model that gets the gate; left as it is.

    Returns:
        Tensors by the target's names; which were moved, mapped, resampled or left.

    Raises:
        ValueError: If one has no gate that can move, patch sizes or the gates' layouts differ, or no gate of this
            layout says under the target's normalisation what the source says under its own.
    """
    wanted, got = _layout(target, 'target'), _layout(source, 'source')
    if wanted != got:
        differing = [f'{name}: wanted {wanted[name]}, got {got[name]}' for name in wanted if wanted[name] != got[name]]
        raise ValueError(f"the source's gate does not fit the target: {'; '.join(differing)}.")
    report: dict[str, list[str]] = dict(moved=[], mapped=[], resampled=[], left=[])
    moved = {GATE + key: tensor.clone() for key, tensor in source.backbone.gate.state_dict().items()}
    maps = _pixel_map(source.data_preprocessor), _pixel_map(target.data_preprocessor)
    if not all(map(torch.equal, *maps)):
        mix = maps[0][0] @ maps[1][0].inverse()  # source pixels = mix @ target pixels + offset
        offset = maps[0][1] - mix @ maps[1][1]
        names = [f'{GATE}layers.0.{name}' for name in ('weight', 'bias')]
        moved |= zip(names, fold_pixel_map(moved[names[0]], moved[names[1]], got['pixels'], mix, offset), strict=True)
        where = 'exact but for regions padded at the border' if offset.abs().max() > 1e-5 else 'exact'
        report['mapped'] = [f'{name}, to another normalisation of the pixels: {where}' for name in names]

    old, new = source.state_dict(), target.state_dict()
    for name in PRIORS:
        if name in old and name in new:
            moved[name] = resample_prior(old[name], new[name].shape, as_probability=name == PRIORS[0])
            if old[name].shape != new[name].shape:
                sizes = (' x '.join(map(str, prior.shape)) for prior in (old[name], new[name]))
                report['resampled'].append(f'{name}, {" to ".join(sizes)} regions')
        elif name in old or name in new:
            report['left'].append(f'{name}: the {"target" if name in old else "source"} has none')
    report['moved'] = list(moved)
    return moved, report


def fold_pixel_map(weight: Tensor, bias: Tensor, pixels: str, mix: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    r"""Fold an affine map of the pixels' channels into the first linear layer of a gate.

    Raw pixels enter linearly: any map folds. Normalised ones, centred per channel and divided by
    :math:`\sqrt{v + \epsilon}` with one variance :math:`v` of all channels, forget the offset, and follow a map that
    keeps lengths, as a channel swap does. Under any other map :math:`v` mixes the channels otherwise or changes
    against :math:`\epsilon`, which no linear layer undoes.

    Args:
        weight: Columns by part (raw, normalised), channel and pixel, shape (out, parts * 3 * k * k).
        bias: Shape (out,).
        pixels: ``'raw'``, ``'normalized'`` or ``'both'``.
        mix: The layer's old pixels are ``mix @ new pixels + offset``, shape (3, 3).
        offset: Shape (3,).

    Raises:
        ValueError: If the gate sees normalised pixels and ``mix`` does not keep lengths.
    """
    mix, offset = mix.double(), offset.double()
    if pixels != 'raw' and not torch.allclose(mix.T @ mix, torch.eye(3, dtype=mix.dtype), atol=1e-5):
        ratios = ', '.join(f'{ratio:.4g}' for ratio in mix.norm(dim=1).tolist())
        raise ValueError(
            f"normalisation: a gate on pixels='{pixels}' moves exactly between equal std alone (mean and channel order "
            f"may differ), wanted target std / source std = 1, got {ratios}; give the target the source's std."
        )
    parts = weight.double().unflatten(1, (2 if pixels == 'both' else 1, 3, -1))  # -> (out, parts, 3, k * k)
    if pixels != 'normalized':
        bias = (bias.double() + parts[:, 0].sum(-1) @ offset).to(bias.dtype)
    return torch.einsum('opik,ij->opjk', parts, mix).flatten(1).to(weight.dtype), bias


@torch.no_grad()
def compare_scale_maps(source: HostModel, target: HostModel, images: Iterable[Tensor]) -> dict[str, float]:
    """Decisions of two models' gates on the same images, each at the image size of its own backbone.

    Args:
        images: As loaded, values in 0..255, each of shape (3, H, W).

    Returns:
        Number of images, both coarse ratios, the share of regions on which the two agree, and the share on which maps
        of these ratios agree by chance.
    """
    ratios, agreements = [], []
    for image in images:
        decisions = []
        for model in (source, target):
            size = tuple(model.backbone.img_size)
            resized = F.interpolate(image[None].float(), size=size, mode='bilinear', antialias=True)
            decisions.append((model.backbone.gate(_preprocess(model.data_preprocessor, resized)) > 0).float())
        ratios.append([maps.mean() for maps in decisions])
        agreements.append(scale_map_agreement(*decisions).mean())
    p, q = torch.tensor(ratios).mean(0).tolist()
    both = torch.stack(agreements).mean().item(), p * q + (1 - p) * (1 - q)
    names = 'num_images', 'source_coarse_ratio', 'target_coarse_ratio', 'agreement', 'agreement_by_chance'
    return dict(zip(names, (len(ratios), p, q, *both), strict=True))


def scale_map_agreement(a: Tensor, b: Tensor) -> Tensor:
    """Share of regions on which maps (B, rows, cols) agree, on the finer of their two grids, shape (B,).

    Example:
        >>> scale_map_agreement(torch.ones(1, 1, 2), torch.tensor([[[1.0, 1.0, 1.0, 0.0]]]))
        tensor([0.7500])
    """
    size = tuple(map(max, a.shape[1:], b.shape[1:]))
    a, b = (F.interpolate(maps[:, None], size=size, mode='nearest-exact') for maps in (a, b))
    return (a == b).float().mean((1, 2, 3))


def _layout(model: HostModel, role: str) -> dict[str, Any]:
    """What has to be the same for a gate's weights to mean the same."""
    gate = model.backbone.gate
    if not hasattr(gate, 'pixels') or gate.nested:
        raise ValueError(f'the {role} has no gate that can move: wanted a ScaleGate, got {type(gate).__name__}.')
    names = dict(patch_size=model.backbone.patch_size, coarse_patch_size=gate.coarse_patch_size)
    return names | dict(sample_size=gate.sample_size, pixels=gate.pixels, hidden_dims=gate.layers[0].out_features)


def _preprocess(preprocessor: nn.Module, images: Tensor) -> Tensor:
    inputs = preprocessor(dict(inputs=list(images), data_samples=[BaseDataElement() for _ in images]))['inputs']
    return inputs if isinstance(inputs, Tensor) else torch.stack(inputs)


def _pixel_map(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """The matrix (3, 3) and offset (3,) by which a preprocessor maps a pixel, from its answers to plain images."""
    colours = torch.cat([torch.zeros(1, 3), 255 * torch.eye(3), torch.full((1, 3), 100.0)])
    answers = _preprocess(preprocessor, colours[:, :, None, None].expand(-1, -1, 32, 32))
    black, *channels, grey = answers[:, :, 0, 0].double()
    matrix = torch.stack([(channel - black) / 255 for channel in channels], dim=1)
    if not torch.allclose(100 * matrix.sum(1) + black, grey, rtol=1e-4, atol=1e-4) or matrix.det() == 0:
        raise ValueError(f'data_preprocessor: wanted an affine map of the channels, got {type(preprocessor).__name__}.')
    return matrix, black
