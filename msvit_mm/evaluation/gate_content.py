"""Does the gate follow the content? Its choices against the label map."""

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from ..ops.tiling import regions_with_boundary


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


@METRICS.register_module()
class GateContentMetric(BaseMetric):
    """AUC of the gate logits against "this region holds a class boundary", and the coarse share of every class.

    A fine choice should go with a boundary, so the score of a region is minus its gate logit. 0.5 = no information.

    Args:
        ignore_index: Label of pixels that count for nothing.

    Returns (as metrics):
        ``auc`` in [0, 1]; ``auc_shapes``, the same against "holds the boundary of a shape", for data sets whose
        metainfo names ``shape_classes``; ``coarse.<class>``, the share of that class's pixels in coarse regions.
        Of more than two scales ``auc_64`` and so on of each, and coarse is whatever is not of the smallest.
    """

    def __init__(self, ignore_index: int = 255, **kwargs) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        classes = self.dataset_meta['classes']
        num_classes = len(classes)
        shapes = torch.tensor(
            [classes.index(name) for name in self.dataset_meta.get('shape_classes', ()) if name in classes]
        )
        for sample in data_samples:
            maps = _region_maps(sample)
            labels = sample['gt_sem_seg']['data'].float().cpu()[None]  # regions are those of the resized image
            labels = F.interpolate(labels, size=tuple(sample['img_shape'][:2]), mode='nearest')[0, 0].long()
            fine, scales = torch.ones(labels.shape), {}
            for scale_name, logits_name, size in maps:
                scale_map = sample[scale_name]['data'][0].float().cpu()
                boundary = regions_with_boundary(labels, size, self.ignore_index)
                has_shape = F.max_pool2d(torch.isin(labels, shapes).float()[None], size, ceil_mode=True)[0] > 0
                per_pixel = scale_map.repeat_interleave(size, 0).repeat_interleave(size, 1)
                fine = fine * (1 - per_pixel[: labels.shape[0], : labels.shape[1]])
                logits = sample[logits_name]['data'].float().cpu().flatten()
                suffix = logits_name.removeprefix('gate_logits') if len(maps) > 1 else ''
                scales[suffix] = logits, torch.stack([boundary, boundary & has_shape]).flatten(1)
            counted = labels != self.ignore_index
            pixels = torch.bincount(labels[counted], minlength=num_classes)
            coarse_pixels = torch.bincount(labels[counted], weights=1 - fine[counted], minlength=num_classes)
            self.results.append((scales, pixels, coarse_pixels))

    def compute_metrics(self, results: list) -> dict[str, float]:
        scales, pixels, coarse_pixels = zip(*results, strict=True)
        shares = sum(coarse_pixels) / sum(pixels)
        metrics = {}
        for suffix in scales[0]:
            logits, boundaries = zip(*(x[suffix] for x in scales), strict=True)
            scores = -torch.cat(logits).numpy()
            boundary, shape_boundary = torch.cat(boundaries, dim=1).numpy()
            metrics[f'auc{suffix}'] = area_under_curve(scores, boundary)
            if 'shape_classes' in self.dataset_meta:
                metrics[f'auc_shapes{suffix}'] = area_under_curve(scores, shape_boundary)
        return metrics | {f'coarse.{n}': float(x) for n, x in zip(self.dataset_meta['classes'], shares, strict=True)}


def _region_maps(sample: dict) -> list[tuple[str, str, int]]:
    """Names of the scale map and of the logits of every scale of a prediction, and the side of their cells.

    Raises:
        ValueError: If it has none, because its gate decides no regions.
    """
    by_kind: dict[str, list[tuple[str, int]]] = {}
    for name, (kind, cell) in sample.get('choice_maps', {}).items():
        by_kind.setdefault(kind, []).append((name, cell))
    if not {'scale', 'logits'} <= set(by_kind):
        got = sorted(by_kind) or sorted(sample)
        raise ValueError(f'GateContentMetric: wanted predictions with the scales and logits of regions, got {got}')
    pairs = zip(by_kind['scale'], by_kind['logits'], strict=True)
    return [(scale, logits, cell) for (scale, cell), (logits, _) in pairs]
