"""A whole model with shapes that no value changes, so that it can be exported."""

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from .gated import GatedModel

TRAINED_BY = ('gate_loss', 'utility_loss', 'boundary_loss', 'teacher_loss')
UNUSED = (*TRAINED_BY, 'warmup_gate', 'auxiliary_head', 'data_preprocessor')


class StaticModel(nn.Module):
    """Backbone in its static form, neck and head, without what only training needs.

    Args:
        model: Whose weights are copied.
        image_size: (height, width) of the images in pixels.
        token_budget: As for :meth:`msvit_mm.backbones.GatedBackbone.static`.
        *args: What the model decodes with, beside the features.

    Raises:
        ValueError: If the backbone has no static form, or the model looks at such images through windows.
    """

    model: Any

    def __init__(
        self, model: 'GatedModel', image_size: tuple[int, int], token_budget: float | None, *args: Any
    ) -> None:
        super().__init__()
        windows = model.window_sizes((image_size[0], image_size[1]))
        if windows != [tuple(image_size)]:
            raise ValueError(
                f'export: wanted the size of one sliding window, {windows[0]}, got {tuple(image_size)}, which is '
                f'{len(windows)} of them'
            )
        backbone = model.backbone.static(image_size, token_budget)
        self.model = copy.deepcopy(model)
        self.model.backbone = backbone
        for name in UNUSED:
            if getattr(self.model, name, None) is not None:
                setattr(self.model, name, None)
        self.args = args
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of normalised images (B, 3, H, W): (B, classes, H, W) of a segmentor, (B, classes) of a classifier."""
        return self.model._decode(self.model.backbone(images), *self.args)
