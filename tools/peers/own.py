"""MSViT beside the peers: its dense host, packed, and merging, each alone and under the mask transformer."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from msvit_mm.backbones import Costs, GatedBackbone
from msvit_mm.backbones.merging import Bipartite
from msvit_mm.studies.benchmark import decode
from msvit_mm.studies.forms import StatedBackbone, make_forms

from . import DENSE, SEED, System, match_gmacs

MERGE_BEFORE = (1, 5)  # the layers of ALGM for ViT-S


def own_systems(models: Mapping[str, nn.Module], images: Tensor, ratio: float) -> Iterator[System]:
    """The dense host of the first model, and all models packed; each backbone alone and under its head.

    Args:
        models: By what the backbone returns, ``'cells'`` or ``'tokens'``.
        images: Shape (B, 3, S, S).
        ratio: Coarse ratio of random decisions.
    """
    decisions = models['cells'].backbone.random_decisions(ratio, images, torch.Generator().manual_seed(SEED))
    setting = {'coarse ratio': decisions.mean().item()}
    for words, model in models.items():
        dense, packed, _ = make_forms(model.backbone, images, {'random': decisions}, ['packed'])
        systems = {f'packed, {words}': (packed, setting)}
        if words == 'cells':
            systems = {DENSE: (dense, {})} | systems
        for name, (form, knob) in systems.items():
            form.backbone.eval()
            backbone = partial(form.backbone, images)
            yield System('backbone', name, knob, backbone, form.num_tokens)
            yield System('whole', name, knob, partial(segment, model, backbone, images.shape[-2:]), form.num_tokens)


def merging_systems(model: nn.Module, images: Tensor, ratio: float, target: float) -> Iterator[System]:
    """Merging alone, and merging behind a gate of half the coarse ratio; the backbone alone and under its head.

    Args:
        model: On tokens.
        images: Shape (B, 3, S, S).
        ratio: Coarse ratio of the gate alone.
        target: GMACs of the backbone per image.
    """
    backbone = model.backbone
    for name, half in (('merging, tokens', 0.0), ('packed, merging', ratio / 2)):
        decisions = backbone.random_decisions(half, images, torch.Generator().manual_seed(SEED))
        share = match_gmacs(partial(_merging_gmacs, backbone, images, decisions), target, none=0, most=0.5)
        step, costs = _merge(backbone, images, decisions, share)
        form = StatedBackbone(backbone, decisions, 'packed', [step]).eval()
        knob, num_tokens = {'coarse ratio': half, 'share': share}, costs.num_tokens.double().mean().item()
        call = partial(form, images)
        yield System('backbone', name, knob, call, num_tokens)
        yield System('whole', name, knob, partial(segment, model, call, images.shape[-2:]), num_tokens)


def _merging_gmacs(backbone: GatedBackbone, images: Tensor, decisions: Tensor, share: float) -> float:
    return _merge(backbone, images, decisions, share)[1].total.mean().item() / 1e9


def _merge(backbone: GatedBackbone, images: Tensor, decisions: Tensor, share: float) -> tuple[Bipartite, Costs]:
    """A step that merges this share, and what the images cost with it."""
    step = Bipartite(before=MERGE_BEFORE, share=share, num_extra_tokens=backbone.num_extra_tokens)
    with backbone.configured(between=(step,)):
        return step, backbone.executed_costs(images, decisions)


def segment(model: nn.Module, backbone: Callable[[], tuple], size: tuple[int, int]) -> Tensor:
    """Class scores at the size of the images."""
    return decode(model, size, backbone())
