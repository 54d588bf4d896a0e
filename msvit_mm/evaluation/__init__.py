"""Metrics beside accuracy: what a prediction costs, and whether the gate follows the content."""

from .complexity import ComplexityMetric
from .content import BoundaryIoUMetric, GateContentMetric, area_under_curve, near_boundary, regions_with_boundary

__all__ = [
    'BoundaryIoUMetric',
    'ComplexityMetric',
    'GateContentMetric',
    'area_under_curve',
    'near_boundary',
    'regions_with_boundary',
]
