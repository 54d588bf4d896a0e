"""Detection and instance segmentation over a gated backbone. Optional: nothing else here needs mmdet or compiled ops.

A config loads this file by ``custom_imports``. Another detector of mmdet is one line:
``GatedFasterRCNN = MODELS.register_module(module=gated_detector(FasterRCNN))``.
"""

from typing import Any

from mmengine.registry import MODELS
from torch import Tensor

from ..stack import INSTALL_DETECTION
from .gated import GatedModel

try:
    from mmdet.models.detectors import MaskRCNN
except (ImportError, AssertionError) as error:  # mmdet asserts the version of mmcv
    raise ImportError(
        f'GatedMaskRCNN needs mmdet, and mmcv with its compiled ops, got: {error}; {INSTALL_DETECTION}.'
    ) from error


def gated_detector(host: type) -> Any:
    """A two-stage detector of mmdet over a gated backbone, as a class.

    Training adds the gate loss and its statistics. A prediction carries the gate's choices and the costs of the
    backbone (:meth:`~msvit_mm.models.gated.GatedModel._attach`); those of neck and heads depend on the objects and are
    not counted.

    Args:
        host: A class whose ``loss``, ``predict`` and ``neck`` are those of ``TwoStageDetector``.

    Returns:
        ``Gated<host>``, not registered.
    """

    class GatedDetector(GatedModel, host):
        def extract_feat(self, inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            """The neck's features of images (B, 3, H, W), or of the backbone's maps if those are given."""
            maps = self.neck(inputs if isinstance(inputs, tuple) else self.backbone(inputs))
            return tuple(x.contiguous() for x in maps)  # mmcv's RoIAlign reads memory, whatever the strides

        def predict(self, inputs: Tensor, data_samples: list, rescale: bool = True) -> list:
            """Detect objects in images (B, 3, H, W)."""
            features, choices = self.backbone.forward_gated(inputs)
            predictions = super().predict(features, data_samples, rescale)
            self._attach(predictions, choices.maps(), choices.costs, choices.num_tokens)
            return predictions

        def _task_losses(self, features: tuple[Tensor, ...], inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
            return host.loss(self, features, data_samples)  # type: ignore[attr-defined]

    name = f'Gated{host.__name__}'
    GatedDetector.__name__ = GatedDetector.__qualname__ = name
    GatedDetector.__doc__ = f"mmdet's {host.__name__} over a gated backbone, see :func:`gated_detector`."
    return GatedDetector


GatedMaskRCNN = MODELS.register_module(module=gated_detector(MaskRCNN))
