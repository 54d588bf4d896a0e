"""Mean IoU image by image, so that images can be drawn again, and of the small classes alone."""

import numpy as np
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric

AREAS = ('intersection', 'union', 'label')


@METRICS.register_module()
class ImageAreasMetric(IoUMetric):
    """Keeps what mmseg's IoUMetric counts in each image, instead of summing it up. Reports nothing itself.

    Arguments are those of ``IoUMetric``.

    Attributes:
        areas: Pixels of each class by image, once evaluated: those of ``AREAS``, shape (N, 3, classes).
    """

    default_prefix = 'image'
    areas: np.ndarray | None = None

    def compute_metrics(self, results: list) -> dict[str, float]:
        self.areas = np.array([[x.numpy() for x in (image[0], image[1], image[3])] for image in results])
        return {}


@METRICS.register_module()
class SmallIoUMetric(IoUMetric):
    """Mean IoU over the classes that the data set's ``METAINFO['small_classes']`` names, in percent.

    Arguments are those of ``IoUMetric``.

    Raises:
        ValueError: If the data set names none.
    """

    default_prefix = 'small'

    def compute_metrics(self, results: list) -> dict[str, float]:
        if not self.dataset_meta.get('small_classes'):
            raise ValueError(f"SmallIoUMetric: wanted a data set with 'small_classes', got {sorted(self.dataset_meta)}")
        areas = np.array([[x.numpy() for x in image[:2]] for image in results]).sum(0)
        return {'mIoU': float(mean_iou(areas[:, small_indices(self.dataset_meta)]))}


def small_indices(dataset_meta: dict) -> list[int]:
    """Indices of the small classes; none if the data set does not name them.

    Example:
        >>> small_indices(dict(classes=('sky', 'road', 'sign'), small_classes=('sign',)))
        [2]
    """
    classes = dataset_meta['classes']  # perhaps a subset
    return [classes.index(name) for name in dataset_meta.get('small_classes') or () if name in classes]


def mean_iou(areas: np.ndarray) -> np.ndarray:
    """Mean IoU in percent over the classes that occur, from intersection and union, (..., 2 or more, classes) -> (...).

    Example:
        >>> float(mean_iou(np.array([[1.0, 3.0, 0.0], [2.0, 4.0, 0.0]])))
        62.5
    """
    intersection, union = areas[..., 0, :], areas[..., 1, :]
    occurs = union > 0
    return 100 * (intersection / np.where(occurs, union, 1)).sum(-1) / occurs.sum(-1)
