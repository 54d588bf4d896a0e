"""Data sets and transforms; importing them registers them in mmengine's root registries."""

from .camvid import CamVidDataset
from .image_mask import ImageMaskDataset
from .scenes import ScenesDataset
from .scenes_presence import ScenesPresenceDataset
from .transforms import LABEL_STEPS, CheckLabels, GateCrops, PackGatedSegInputs

__all__ = [
    'LABEL_STEPS',
    'CamVidDataset',
    'CheckLabels',
    'GateCrops',
    'ImageMaskDataset',
    'PackGatedSegInputs',
    'ScenesDataset',
    'ScenesPresenceDataset',
]
