"""Scale maps over images, routes of tokens through a grid of scales and stages, accuracy against cost."""

from .choices import draw_choices, draw_panel, draw_summary, has_choices, maps_of_kind, route_maps
from .routes import depth_map, draw_route_summary, draw_routes
from .scale_map import draw_scale_map
from .segmentation import draw_segmentation, draw_sheet
from .tradeoff import draw_tradeoff, pareto_front
from .visualizer import GatedSegLocalVisualizer

__all__ = [
    'GatedSegLocalVisualizer',
    'depth_map',
    'draw_choices',
    'draw_panel',
    'draw_route_summary',
    'draw_routes',
    'draw_scale_map',
    'draw_segmentation',
    'draw_sheet',
    'draw_summary',
    'draw_tradeoff',
    'has_choices',
    'maps_of_kind',
    'pareto_front',
    'route_maps',
]
