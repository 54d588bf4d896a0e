"""A classifier over a gated backbone: the gate loss in training, the gate's choices beside each prediction."""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.heads import MultiLabelClsHead
from mmpretrain.models.necks import GlobalAveragePooling
from torch import Tensor

from ..backbones import GateOutput
from ..backbones.base import Features
from ..ops.tiling import Maps, map_scales, per_scale
from .gated import GatedModel
from .static import StaticModel

NUM_SWAPS = 4  # regions of each image and step whose utility is measured


@MODELS.register_module()
class GatedImageClassifier(GatedModel, ImageClassifier):
    """mmpretrain's ImageClassifier over a gated backbone.

    Training adds the gate loss and logs the gate's statistics, ``num_tokens`` and ``gmacs``. A prediction carries,
    beside mmpretrain's fields, what GatedEncoderDecoder's predictions carry, of the image as the network got it.

    Feature maps without a neck are averaged over the grid, where every region weighs the same at either scale and the
    choice of a scale has its gradient. A backbone with ``out_type='cls_token'`` hands its class token to the head.

    Args and attributes: those of ``ImageClassifier`` and of :class:`~msvit_mm.models.gated.GatedModel`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.neck is None and self.backbone.out_type == 'featmap':
            self.neck = GlobalAveragePooling()

    def predict(self, inputs: Tensor, data_samples: list | None = None, **kwargs) -> list:
        """Classify images (B, 3, H, W); the gate's choices and the cost travel on the data samples."""
        features, choices = self.backbone.forward_gated(inputs)
        predictions = self.head.predict(self._pool(features), data_samples, **kwargs)
        decoder_macs = self._count_decoder_macs(features, choices.num_tokens)
        self._attach(predictions, choices.maps(), choices.costs, choices.num_tokens, decoder_macs)
        return predictions

    def _task_losses(self, features: Features, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        losses = self.head.loss(self._pool(features), data_samples)
        if self.teacher_loss is not None:
            losses |= self.teacher_loss(self._decode(features), inputs)
        return losses

    def _check_utilities(self) -> None:
        super()._check_utilities()
        self._check_one_label('utility_loss')

    def _check_teacher(self) -> None:
        self._check_one_label('teacher_loss')

    def _check_one_label(self, what: str) -> None:
        if isinstance(self.head, MultiLabelClsHead):
            got = type(self.head).__name__
            raise ValueError(
                f'{what}: wanted a head whose classes exclude each other, such as LinearClsHead, got {got}'
            )

    def _utilities(self, features: Features, choices: GateOutput, data_samples: list) -> tuple[Maps, Maps]:
        """Of an image the loss is one number, so one node of each is swapped at a time, ``NUM_SWAPS`` of each scale."""
        labels = _labels(data_samples)
        counterfactual = choices.counterfactual
        assert counterfactual is not None
        own = F.cross_entropy(self._decode(features), labels, reduction='none')
        wins = map_scales(torch.zeros_like, choices.gate_logits)
        known = map_scales(torch.zeros_like, counterfactual.drawn)
        maps = zip(*map(per_scale, (wins, known, counterfactual.drawn)), strict=True)
        for i, (won, seen, drawn) in enumerate(maps):
            order = torch.rand_like(won).masked_fill(~drawn, -1).flatten(1).argsort(1, descending=True)
            for place in order[:, :NUM_SWAPS].T:
                one = torch.zeros_like(seen).flatten(1).scatter(1, place[:, None], True).view_as(seen)
                swapped = F.cross_entropy(self._decode(counterfactual.swap_scale(i, one)), labels, reduction='none')
                one &= drawn  # an image may have fewer
                won += (own - swapped)[:, None, None] * one
                seen |= one
        return wins, known

    def _decode(self, features: Features) -> Tensor:
        return self.head(self._pool(features))

    def static(self, image_size: tuple[int, int], token_budget: float | None = None) -> StaticModel:
        return StaticModel(self, image_size, token_budget)

    def _pool(self, features: Features) -> tuple[Tensor, ...]:
        return self.neck(features) if self.with_neck else features


def _labels(data_samples: list) -> Tensor:
    """Class of each image, (B,), or of mixed images the scores, (B, classes), as mmpretrain's heads take them."""
    if 'gt_score' in data_samples[0]:
        return torch.stack([sample.gt_score for sample in data_samples])
    return torch.cat([sample.gt_label for sample in data_samples])
