"""ALGM (tue-mps/algm-segmenter) on Segmenter ViT-S, by its own code; needs timm and einops."""

import copy
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn

from . import System, count_gmacs, fuse, fused_attention, import_peer, match_gmacs, mean_tokens

LAYERS = [1, 5]  # as their README has it for ViT-S


def import_algm(path: str, device: str) -> list[ModuleType]:
    """Only what builds the network: the rest of ``segm`` wants mmcv and mmseg of another age."""
    names = ['segm.model.vit', 'segm.model.decoder', 'segm.model.segmenter', 'algm.patch']
    modules = import_peer(path, 'tue-mps/algm-segmenter', ['.', 'algm'], names)
    if device == 'cpu':
        torch.Tensor.cuda = torch.Tensor.to  # their `.cuda(x.device)`, on the threshold, takes no CPU
    return modules


def algm_systems(modules: list[ModuleType], images: Tensor, target: float) -> Iterator[System]:
    """Segmenter ViT-S with its mask transformer, 150 classes, and ALGM on it at these GMACs per image."""
    vit, decoder, segmenter, patch = modules
    shape = dict(patch_size=16, d_model=384, d_ff=1536, n_heads=6)
    encoder = vit.VisionTransformer(image_size=tuple(images.shape[-2:]), n_layers=12, n_cls=1000, **shape)
    head = decoder.MaskTransformer(n_cls=150, d_encoder=384, n_layers=2, drop_path_rate=0.0, dropout=0.0, **shape)
    dense = segmenter.Segmenter(encoder, head, n_cls=150).to(images).eval()
    dense_fused, shipped, fused = (copy.deepcopy(dense) for _ in range(3))
    with redirect_stdout(sys.stderr):  # the patch prints its layers
        for model in (shipped, fused):
            patch.algm_segmenter_patch(model, LAYERS, trace_source=True)
    for model in (dense_fused, fused):
        fuse([*model.encoder.blocks, *model.decoder.blocks], algm_attention)

    def merge(threshold: float) -> float:
        shipped.encoder.threshold = fused.encoder.threshold = threshold
        return count_gmacs(partial(fused, images), len(images))

    threshold = match_gmacs(merge, target, none=1, most=-1)  # a cosine similarity
    merge(threshold)
    for name, model, setting in (
        ('Segmenter, shipped', dense, {}),
        ('Segmenter, fused', dense_fused, {}),
        ('ALGM, shipped', shipped, {'threshold': threshold}),
        ('ALGM, fused', fused, {'threshold': threshold}),
    ):
        call = partial(model, images)
        yield System('whole', name, setting, call, mean_tokens(model.encoder.blocks, call))


def algm_attention(layer: nn.Module, x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As in ALGM's and Segmenter's code: blind to sizes, and nobody reads the second output."""
    return fused_attention(layer, x)
