"""Metrics beside accuracy: what a prediction costs, and whether the gate follows the content."""

from .complexity import PARTS, ComplexityMetric, count_parts, spread
from .content import BoundaryIoUMetric, GateContentMetric, area_under_curve, near_boundary

__all__ = [
    'PARTS',
    'BoundaryIoUMetric',
    'ComplexityMetric',
    'GateContentMetric',
    'area_under_curve',
    'count_parts',
    'near_boundary',
    'spread',
]
