"""Metrics beside accuracy: what a prediction costs, whether the gate follows the content, where results differ."""

from .bootstrap import (
    ImageAreasMetric,
    SmallIoUMetric,
    bootstrap_difference,
    check_same_images,
    mean_iou,
    small_indices,
)
from .boundary import BoundaryFScoreMetric, BoundaryIoUMetric, boundary_fscore, near_boundary
from .complexity import PARTS, ComplexityMetric, count_parts, spread
from .gate_content import GateContentMetric, area_under_curve

__all__ = [
    'PARTS',
    'BoundaryFScoreMetric',
    'BoundaryIoUMetric',
    'ComplexityMetric',
    'GateContentMetric',
    'ImageAreasMetric',
    'SmallIoUMetric',
    'area_under_curve',
    'bootstrap_difference',
    'boundary_fscore',
    'check_same_images',
    'count_parts',
    'mean_iou',
    'near_boundary',
    'small_indices',
    'spread',
]
