"""Does the gate follow the content? Its choices against the label map, and predictions at the class boundaries."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric
from torch import Tensor

from ..ops.regions import regions_with_boundary


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counting half (area under the ROC curve).

    Args:
        scores: Real numbers, shape (n,).
        labels: Boolean, shape (n,).

    Returns:
        In [0, 1]; NaN if one of the two kinds is missing.

    Example:
        >>> area_under_curve(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
        0.875
    """
    num_positive, num_negative = int(labels.sum()), int((~labels).sum())
    if not num_positive or not num_negative:
        return float('nan')
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]  # tied scores share their mean rank
    return float((ranks[labels].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


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
class GateContentMetric(BaseMetric):
    """AUC of the gate logits against "this region holds a class boundary", and the coarse share of every class.

    A fine choice should go with a boundary, so the score of a region is minus its gate logit. 0.5 = no information.

    Args:
        ignore_index: Label of pixels that count for nothing.

    Returns (as metrics):
        ``auc`` in [0, 1]; ``auc_shapes``, the same against "holds the boundary of a shape", for data sets whose
        metainfo names ``shape_classes``; ``coarse.<class>``, the share of that class's pixels in coarse regions.
    """

    def __init__(self, ignore_index: int = 255, **kwargs) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        classes = self.dataset_meta['classes']
        num_classes = len(classes)
        shapes = torch.tensor([classes.index(name) for name in self.dataset_meta.get('shape_classes', ())])
        for sample in data_samples:
            size = sample['coarse_patch_size']
            scale_map = sample['scale_map']['data'][0].float().cpu()
            labels = sample['gt_sem_seg']['data'].float().cpu()[None]  # regions are those of the resized image
            labels = F.interpolate(labels, size=tuple(sample['img_shape'][:2]), mode='nearest')[0, 0].long()
            boundary = regions_with_boundary(labels, size, self.ignore_index)
            has_shape = F.max_pool2d(torch.isin(labels, shapes).float()[None], size, ceil_mode=True)[0] > 0
            coarse = scale_map.repeat_interleave(size, 0).repeat_interleave(size, 1)[
                : labels.shape[0], : labels.shape[1]
            ]
            counted = labels != self.ignore_index
            pixels = torch.bincount(labels[counted], minlength=num_classes)
            coarse_pixels = torch.bincount(labels[counted], weights=coarse[counted], minlength=num_classes)
            logits = sample['gate_logits']['data'].float().cpu().flatten()
            boundaries = torch.stack([boundary, boundary & has_shape]).flatten(1)
            self.results.append((logits, boundaries, pixels, coarse_pixels))

    def compute_metrics(self, results: list) -> dict[str, float]:
        logits, boundaries, pixels, coarse_pixels = zip(*results, strict=True)
        shares = sum(coarse_pixels) / sum(pixels)
        scores = -torch.cat(logits).numpy()
        boundary, shape_boundary = torch.cat(boundaries, dim=1).numpy()
        metrics = {'auc': area_under_curve(scores, boundary)}
        if 'shape_classes' in self.dataset_meta:
            metrics['auc_shapes'] = area_under_curve(scores, shape_boundary)
        return metrics | {f'coarse.{n}': float(x) for n, x in zip(self.dataset_meta['classes'], shares, strict=True)}


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
