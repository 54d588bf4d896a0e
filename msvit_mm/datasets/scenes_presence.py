"""Which shapes does a scene hold? A classification data set over generated scenes."""

from typing import Any, ClassVar

import cv2
import numpy as np
from mmengine import fileio
from mmengine.registry import DATASETS

from .scenes import LARGE_CLASSES, SMALL_CLASSES, STUFF_CLASSES, ScenesDataset

SHAPE_CLASSES = LARGE_CLASSES + SMALL_CLASSES


@DATASETS.register_module()
class ScenesPresenceDataset(ScenesDataset):
    """The images of :class:`ScenesDataset`, labelled with the shape classes that occur in them.

    The label of an item, ``gt_label``, is a sorted integer array of indices into the six shape classes, as mmpretrain's
    multi-label heads and metrics read it. It is found when the item is loaded, and holds for the uncropped scene.

    Arguments are those of :class:`ScenesDataset`.

    Example:
        >>> dataset = ScenesPresenceDataset(num_images=3)
        >>> [dataset.metainfo['classes'][label] for label in dataset.get_data_info(1)['gt_label']]
        ['disc', 'square']
    """

    METAINFO: ClassVar[dict] = dict(
        classes=SHAPE_CLASSES,
        palette=ScenesDataset.METAINFO['palette'][len(STUFF_CLASSES) :],
        small_classes=SMALL_CLASSES,
    )

    def get_data_info(self, idx: int) -> dict:
        """Addresses of the scene, and ``gt_label``."""
        info = super().get_data_info(idx)
        encoded = np.frombuffer(fileio.get(info['seg_map_path']), np.uint8)
        labels: Any = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        present = np.unique(labels).astype(np.int64)
        shapes = present - len(STUFF_CLASSES)
        return {**info, 'gt_label': shapes[shapes >= 0]}
