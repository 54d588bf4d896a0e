"""Are two results different, or only their images? Mean IoU under resampled images."""

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
    return [dataset_meta['classes'].index(name) for name in dataset_meta.get('small_classes') or ()]


def mean_iou(areas: np.ndarray) -> np.ndarray:
    """Mean IoU in percent over the classes that occur, from intersection and union, (..., 2 or more, classes) -> (...).

    Example:
        >>> float(mean_iou(np.array([[1.0, 3.0, 0.0], [2.0, 4.0, 0.0]])))
        62.5
    """
    intersection, union = areas[..., 0, :], areas[..., 1, :]
    occurs = union > 0
    return 100 * (intersection / np.where(occurs, union, 1)).sum(-1) / occurs.sum(-1)


def bootstrap_difference(
    a: np.ndarray, b: np.ndarray, num_samples: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Mean IoU of one result minus that of another, and the percentile interval under resampled images.

    Every sample draws as many images as there are, with replacement, the same ones for both results.

    Args:
        a: Areas of one result by image, as ImageAreasMetric keeps them, shape (N, 3, classes).
        b: The same of the other, of the same images in the same order.
        num_samples: How often the images are drawn.
        level: Share of the samples within the interval, in (0, 1).
        seed: Of the draws.

    Returns:
        ``difference``, ``low`` and ``high``, in points of mean IoU.

    Raises:
        ValueError: If the images are not the same.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979.
    """
    check_same_images(a, b)
    draws = np.random.default_rng(seed).multinomial(len(a), np.full(len(a), 1 / len(a)), size=num_samples)
    sampled = (mean_iou(np.tensordot(draws.astype(np.float64), areas, axes=1)) for areas in (a, b))
    tail = 50 * (1 - level)
    low, high = np.percentile(np.subtract(*sampled), (tail, 100 - tail))
    return dict(difference=float(mean_iou(a.sum(0)) - mean_iou(b.sum(0))), low=float(low), high=float(high))


def check_same_images(a: np.ndarray, b: np.ndarray) -> None:
    """Check by the label maps that two results are on the same images in the same order.

    Raises:
        ValueError: If they are not.
    """
    if a.shape != b.shape or not np.array_equal(a[:, AREAS.index('label')], b[:, AREAS.index('label')]):
        raise ValueError(
            f'wanted two results on the same images and labels, got {len(a)} images of {a.shape[-1]} classes and '
            f'{len(b)} of {b.shape[-1]}, with other label maps'
        )
