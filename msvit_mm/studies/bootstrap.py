"""Are two results different, or only their images? Mean IoU under resampled images."""

import numpy as np

from ..evaluation import mean_iou
from ..evaluation.iou import AREAS


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
