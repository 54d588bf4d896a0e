"""The visualizer of detectors over a gated backbone. Optional, as :mod:`msvit_mm.models.detector`."""

from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import VISUALIZERS

from .visualizer import gated_visualizer

GatedDetLocalVisualizer = VISUALIZERS.register_module(
    module=gated_visualizer(DetLocalVisualizer, 'GatedDetLocalVisualizer')
)
