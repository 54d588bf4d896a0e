"""Scale maps over images, routes of tokens through a grid of scales and stages, accuracy against cost."""

from .choices import draw_choices, draw_panel, draw_summary, has_choices, legend_of, maps_of_kind, route_maps
from .objects import draw_objects
from .routes import depth_map, draw_route_summary, draw_routes
from .scale_map import draw_scale_map
from .segmentation import WRONG, add_legend, draw_errors, draw_segmentation, draw_sheet, pale
from .tradeoff import draw_tradeoff, pareto_front
from .visualizer import GatedSegLocalVisualizer, gated_visualizer

__all__ = [
    'WRONG',
    'GatedSegLocalVisualizer',
    'add_legend',
    'depth_map',
    'draw_choices',
    'draw_errors',
    'draw_objects',
    'draw_panel',
    'draw_route_summary',
    'draw_routes',
    'draw_scale_map',
    'draw_segmentation',
    'draw_sheet',
    'draw_summary',
    'draw_tradeoff',
    'gated_visualizer',
    'has_choices',
    'legend_of',
    'maps_of_kind',
    'pale',
    'pareto_front',
    'route_maps',
]
