"""Predictions at the class boundaries."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric
from torch import Tensor


def near_boundary(labels: Tensor, distance: int, ignore_index: int = 255) -> Tensor:
    """Pixels within ``distance`` pixels (Chebyshev) of a class boundary, (H, W) integers -> (H, W) boolean."""
    valid = labels != ignore_index
    edge = torch.zeros_like(labels, dtype=torch.float)
    for dim, length in enumerate(labels.shape):
        here, there = (labels.narrow(dim, start, length - 1) for start in (0, 1))
        differs = (here != there) & valid.narrow(dim, 0, length - 1) & valid.narrow(dim, 1, length - 1)
        for start in (0, 1):
            edge.narrow(dim, start, length - 1).masked_fill_(differs, 1.0)
    return F.max_pool2d(edge[None], 2 * distance + 1, stride=1, padding=distance)[0] > 0


@METRICS.register_module()
class BoundaryIoUMetric(IoUMetric):
    """mmseg's IoUMetric on the pixels near class boundaries alone.

    Args:
        distance: Pixels of the label map within this (Chebyshev) distance of a boundary count.
    """

    default_prefix = 'boundary'

    def __init__(self, distance: int = 8, **kwargs) -> None:
        super().__init__(**kwargs)
        self.distance = distance

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        for sample in data_samples:
            labels = sample['gt_sem_seg']['data']
            near = near_boundary(labels.squeeze(0), self.distance, self.ignore_index)
            masked = {'data': labels.masked_fill(~near, self.ignore_index)}
            super().process(data_batch, [{**sample, 'gt_sem_seg': masked}])


@METRICS.register_module()
class BoundaryFScoreMetric(BaseMetric):
    r"""F-score of the predicted class boundaries, in percent.

    .. math:: F = \frac{2 P R}{P + R}

    with, for a class of an image, :math:`P` the share of its predicted boundary pixels that lie within ``tolerance``
    of a labelled one, and :math:`R` the share of the labelled ones that lie so near a predicted one; without predicted
    boundary :math:`P = 1`, without labelled one :math:`R = 1`. Mean over the classes of the label map, then over
    images.

    Args:
        tolerance: Pixels of the label map, Euclidean.
        ignore_index: Label of pixels that count for nothing, nor does a boundary with them.

    Source: Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013; Perazzi et al.,
    "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016.
    """

    default_prefix = 'boundary'

    def __init__(self, tolerance: float = 2, ignore_index: int = 255, **kwargs) -> None:
        super().__init__(**kwargs)
        self.tolerance = tolerance
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        for sample in data_samples:
            labels = sample['gt_sem_seg']['data'].squeeze(0).cpu().long()
            predicted = sample['pred_sem_seg']['data'].squeeze(0).cpu().long()
            predicted = predicted.masked_fill(labels == self.ignore_index, self.ignore_index)
            self.results.append(boundary_fscore(predicted, labels, self.tolerance, self.ignore_index))

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {'fscore': 100 * float(np.nanmean(results))}


def boundary_fscore(predicted: Tensor, labels: Tensor, tolerance: float, ignore_index: int = 255) -> float:
    """Mean over the classes of a label map of BoundaryFScoreMetric's F, for two maps of integers (H, W).

    Returns:
        In [0, 1]; NaN if all pixels are ignored.
    """
    maps = [x.numpy() for x in (predicted, labels)]
    edges = [near_boundary(x, 0, ignore_index).numpy() for x in (predicted, labels)]
    scores = []
    for label in np.setdiff1d(maps[1], [ignore_index]):
        found, wanted = (edge & (x == label) for edge, x in zip(edges, maps, strict=True))
        precision, recall = _share_near(found, wanted, tolerance), _share_near(wanted, found, tolerance)
        scores.append(2 * precision * recall / max(precision + recall, 1e-12))
    return float(np.mean(scores)) if scores else float('nan')


def _share_near(pixels: np.ndarray, others: np.ndarray, tolerance: float) -> float:
    """Share of the pixels (H, W) within ``tolerance`` of one of the others; 1 if there are no pixels."""
    if not pixels.any():
        return 1.0
    if not others.any():
        return 0.0
    distance = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[pixels] <= tolerance + 1e-4).mean())
