"""A classifier over a gated backbone: the gate loss in training, the gate's choices beside each prediction."""

from mmengine.registry import MODELS
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.necks import GlobalAveragePooling
from torch import Tensor

from .gated import GatedModel


@MODELS.register_module()
class GatedImageClassifier(GatedModel, ImageClassifier):
    """mmpretrain's ImageClassifier over a gated backbone.

    Training adds the gate loss and logs ``coarse_ratio``, ``num_tokens`` and ``gmacs``. A prediction carries, beside
    mmpretrain's fields, ``scale_map`` and ``gate_logits`` (PixelData, (1, rows, cols), of the image as the network got
    it), ``num_tokens``, ``backbone_gmacs``, ``gmacs`` and the metainfo ``patch_size`` and ``coarse_patch_size``; over
    routes, what GatedEncoderDecoder's predictions carry.

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
        features, output = self.backbone.forward_gated(inputs)
        predictions = self.head.predict(self._pool(features), data_samples, **kwargs)
        maps, costs = self.choices.maps(output), self._costs(output, tuple(inputs.shape[-2:]), features)
        for i, sample in enumerate(predictions):
            per_image = ({name: x[i] for name, (x, _) in maps.items()}, {name: x[i] for name, x in costs.items()})
            self._attach_choices(sample, *per_image)
        return predictions

    def _task_losses(self, features: tuple[Tensor, ...], data_samples: list) -> dict[str, Tensor]:
        return self.head.loss(self._pool(features), data_samples)

    def _decode(self, features: tuple[Tensor, ...]) -> Tensor:
        return self.head(self._pool(features))

    def _pool(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.neck(features) if self.with_neck else features
