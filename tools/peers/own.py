"""MSViT beside the peers: its dense host first, then packed, alone and under the mask transformer."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from msvit_mm.studies.benchmark import decode
from msvit_mm.studies.forms import make_forms

from . import DENSE, SEED, System


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


def segment(model: nn.Module, backbone: Callable[[], tuple], size: tuple[int, int]) -> Tensor:
    """Class scores at the size of the images."""
    return decode(model, size, backbone())
