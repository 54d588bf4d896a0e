"""ToMe (facebookresearch/ToMe) on timm's DeiT-S, by its own code; needs timm."""

import copy
from collections.abc import Iterator
from functools import partial
from types import ModuleType

from torch import Tensor, nn

from . import System, count_gmacs, fuse, fused_attention, import_peer, match_gmacs, mean_tokens


def import_tome(path: str) -> list[ModuleType]:
    """Its patch of timm, and timm."""
    return import_peer(path, 'facebookresearch/ToMe', ['.'], ['tome.patch.timm', 'timm'])


def tome_systems(modules: list[ModuleType], images: Tensor, target: float) -> Iterator[System]:
    """timm's DeiT-S, and ToMe on it at these GMACs per image, with the proportional attention that it ships with."""
    tome, timm = modules
    # Their patch, written for timm 0.4, fits 1.0 as it is: it looks for `drop_path1` itself, and what its layers leave
    # out of newer ones (`ls1`, `q_norm`, `gate`) does nothing in DeiT-S.
    dense = timm.create_model('deit_small_patch16_224', img_size=images.shape[-1], num_classes=0).to(images).eval()
    shipped, fused = copy.deepcopy(dense), copy.deepcopy(dense)
    for model in (shipped, fused):
        tome.apply_patch(model)
    fuse(fused.blocks, tome_attention)

    def merge(r: float) -> float:
        shipped.r = fused.r = round(r)
        return count_gmacs(partial(fused, images[:1]), 1)  # the same for all images

    r = match_gmacs(merge, target, none=0, most=dense.patch_embed.num_patches / 2)  # no layer merges more than half
    merge(r)
    for name, model, setting in (
        ('timm, dense', dense, {}),
        ('ToMe, shipped', shipped, {'r': round(r)}),
        ('ToMe, fused', fused, {'r': round(r)}),
    ):
        call = partial(model, images)
        yield System('backbone', name, setting, call, mean_tokens(model.blocks, call))


def tome_attention(layer: nn.Module, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """With ToMe's metric of similarity, the mean of the keys over the heads."""
    x, key = fused_attention(layer, x, size)
    return x, key.mean(1)
