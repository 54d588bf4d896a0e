"""MSViT beside the peers: its dense host first, then packed, alone and under the mask transformer."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from mmengine.config import Config
from torch import Tensor, nn

from msvit_mm.studies.benchmark import decode
from msvit_mm.studies.settings import make_variants, random_decisions

from . import DENSE, SEED, System


def own_systems(
    models: Mapping[str, nn.Module], cfgs: Mapping[str, Config], images: Tensor, ratio: float
) -> Iterator[System]:
    """The dense host of the first model, and all models packed; each backbone alone and under its head.

    Args:
        models: By what the backbone returns, ``'cells'`` or ``'tokens'``.
        cfgs: Their configs.
        images: Shape (B, 3, S, S).
        ratio: Coarse ratio of random decisions.
    """
    side = images.shape[-1] // models['cells'].backbone.coarse_patch_size
    decisions = random_decisions(ratio, (len(images), side, side), torch.Generator().manual_seed(SEED)).to(images)
    setting = {'coarse ratio': decisions.mean().item()}
    for words, model in models.items():
        config = cfgs[words].model.backbone
        dense, packed, _ = make_variants(model.backbone, config, images, {'random': decisions}, ['packed'])
        systems = {f'packed, {words}': (packed, setting)}
        if words == 'cells':
            systems = {DENSE: (dense, {})} | systems
        for name, (variant, knob) in systems.items():
            variant.backbone.eval()
            backbone = partial(variant.backbone, images)
            yield System('backbone', name, knob, backbone, variant.num_tokens)
            yield System('whole', name, knob, partial(segment, model, backbone, images.shape[-2:]), variant.num_tokens)


def segment(model: nn.Module, backbone: Callable[[], tuple], size: tuple[int, int]) -> Tensor:
    """Class scores at the size of the images."""
    return decode(model, size, backbone())
