"""MSViT in timm: after ``import msvit_mm.timm``, ``timm.create_model('msvit_small_patch16_512')``.

The models have timm's words and methods and random weights; the backbone itself, with gate and costs, is ``.backbone``.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

try:
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
    from timm.models._features import feature_take_indices
except ImportError as error:
    raise ImportError('msvit_mm.timm needs timm; install with `pip install msvit_mm[timm]`.') from error

from .backbones import MSViT
from .ops.naflex import to_naflex

__all__ = ['TimmMSViT', 'to_naflex']  # and what register_model adds
POOLS = ('avg', '')
CONFIG = dict(
    url='',
    num_classes=1000,
    input_size=(3, 512, 512),
    fixed_input_size=False,
    pool_size=None,
    crop_pct=0.9,
    interpolation='bicubic',
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    first_conv='backbone.patch_embed.projection',
    classifier='head',
    license='apache-2.0',
)
default_cfgs = generate_default_cfgs({f'msvit_{size}_patch16_512': CONFIG for size in ('tiny', 'small', 'base')})


class TimmMSViT(nn.Module):
    """An MSViT as timm's code expects a model: features are maps (B, C, h, w), normalised after the last layer.

    Args:
        num_classes: Of the classifier on the mean over the map; 0 for none.
        global_pool: ``'avg'``, or ``''`` for the map itself.
        img_size: Image size in pixels for which positions are laid out; other sizes interpolate them.
        in_chans: Channels of the images.
        drop_rate: Dropout before the classifier.
        **words: Further words of :class:`~msvit_mm.backbones.MSViT`, such as ``gate`` and ``token_budget``.

    Raises:
        ValueError: If ``global_pool`` or a word has no meaning.
    """

    output_fmt = 'NCHW'

    def __init__(
        self,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        img_size: int | tuple[int, int] = 512,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        **words: Any,
    ) -> None:
        super().__init__()
        for word, wanted in (('detail', None), ('out_indices', None), ('out_type', 'featmap'), ('final_norm', True)):
            if words.get(word, wanted) != wanted:  # timm asks for other layers at every call
                raise ValueError(f'{word}: wanted {wanted!r} under timm, got {words[word]!r}')
        self.backbone = MSViT(img_size=img_size, in_channels=in_chans, **words)
        with quiet_initialisation():
            self.backbone.init_weights()
        self.num_features = self.head_hidden_size = self.embed_dim = self.backbone.embed_dims
        self.feature_info = [
            dict(module=f'backbone.layers.{i}', num_chs=self.embed_dim, reduction=self.backbone.patch_size)
            for i in range(self.backbone.num_layers)
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (B, classes), or features where there is no classifier."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the last layer's map (B, C, h, w)."""
        maps: Any = self.forward_intermediates(images, indices=1, intermediates_only=True)
        (features,) = maps
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """A map (B, C, h, w) to class scores, or with ``pre_logits`` to what the classifier sees."""
        x = x.mean((2, 3)) if self.global_pool == 'avg' else x
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
        **others: Any,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps of several layers: those of the backbone under these ``out_indices``.

        Args:
            x: Images (B, 3, H, W).
            indices: Layers, or how many of the last; by default all.
            norm: Apply the last norm to all maps. The last layer's has it in any case.
            stop_early: Without effect: all layers run.
            output_fmt: ``'NCHW'``.
            intermediates_only: Return the maps alone, else the last layer's first.

        Raises:
            ValueError: If a word has no meaning here.
        """
        if output_fmt != 'NCHW' or any(others.values()):
            raise ValueError(f"output_fmt: wanted 'NCHW' and no further words, got {output_fmt!r} and {others}")
        count = len(self.backbone.layers)
        taken, _ = feature_take_indices(count, indices)
        maps = self._maps(x, {*taken, count - 1})
        last = maps[count - 1]
        if norm:
            maps |= {i: self._normalise(x) for i, x in maps.items() if i != count - 1}
        wanted = [maps[i] for i in taken]
        return wanted if intermediates_only else (last, wanted)

    def _maps(self, images: Tensor, indices: set[int]) -> dict[int, Tensor]:
        own, self.backbone.out_indices = self.backbone.out_indices, sorted(indices)
        try:
            return dict(zip(sorted(indices), self.backbone(images), strict=True))
        finally:
            self.backbone.out_indices = own

    def _normalise(self, x: Tensor) -> Tensor:
        return self.backbone.ln1(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the classifier alone, all layers stay; returns the indices, counted from the front."""
        taken, _ = feature_take_indices(len(self.backbone.layers), indices)
        if prune_head:
            self.reset_classifier(0, '')
        return taken

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and how maps become its input.

        Raises:
            ValueError: If that is unknown.
        """
        pool = getattr(self, 'global_pool', 'avg') if global_pool is None else global_pool
        if pool not in POOLS:
            raise ValueError(f'global_pool: wanted one of {", ".join(map(repr, POOLS))}, got {pool!r}')
        self.global_pool, self.num_classes = pool, num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters lie how deep, for layer-wise learning rates."""
        blocks = [(r'^backbone\.layers\.(\d+)', None), (r'^backbone\.(?:ln1|detail|exits)', (99999,))]
        stem = r'^backbone\.(?:cls_token|reg_token|pos_embed|patch_embed|pre_norm|gate|coarse_pixels)'
        return dict(stem=stem, blocks=r'^backbone\.layers\.(\d+)' if coarse else blocks)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute layers again in the backward pass, or keep what they need there."""
        self.backbone.with_cp = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizers leave without decay."""
        return {'backbone.pos_embed', 'backbone.cls_token'}


@contextlib.contextmanager
def quiet_initialisation() -> Iterator[None]:
    """Keep mmengine from printing how each parameter was initialised, unless its logger was given a level."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(level or logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _create(variant: str, arch: str, pretrained: bool, words: dict[str, Any]) -> nn.Module:
    feature_cfg = dict(out_indices=3, feature_cls='getter')
    wanted = words.get('feature_cls', 'getter')
    if wanted != 'getter':
        raise ValueError(f"feature_cls: wanted 'getter', the maps of forward_intermediates, got {wanted!r}")
    return build_model_with_cfg(TimmMSViT, variant, pretrained, feature_cfg=feature_cfg, arch=arch, **words)


@register_model
def msvit_tiny_patch16_512(pretrained: bool = False, **words: Any) -> nn.Module:
    """DeiT-Ti on patches of 16 and 32 pixels."""
    return _create('msvit_tiny_patch16_512', 'deit-tiny', pretrained, words)


@register_model
def msvit_small_patch16_512(pretrained: bool = False, **words: Any) -> nn.Module:
    """DeiT-S on patches of 16 and 32 pixels."""
    return _create('msvit_small_patch16_512', 'deit-small', pretrained, words)


@register_model
def msvit_base_patch16_512(pretrained: bool = False, **words: Any) -> nn.Module:
    """DeiT-B on patches of 16 and 32 pixels."""
    return _create('msvit_base_patch16_512', 'deit-base', pretrained, words)
