"""Metrics beside accuracy: what a prediction costs, whether the gate follows the content, mean IoU by image."""

from .boundary import BoundaryFScoreMetric, BoundaryIoUMetric, boundary_fscore, near_boundary
from .complexity import PARTS, ComplexityMetric, count_parts, spread
from .gate_content import GateContentMetric, area_under_curve
from .iou import ImageAreasMetric, SmallIoUMetric, mean_iou, small_indices

__all__ = [
    'PARTS',
    'BoundaryFScoreMetric',
    'BoundaryIoUMetric',
    'ComplexityMetric',
    'GateContentMetric',
    'ImageAreasMetric',
    'SmallIoUMetric',
    'area_under_curve',
    'boundary_fscore',
    'count_parts',
    'mean_iou',
    'near_boundary',
    'small_indices',
    'spread',
]
