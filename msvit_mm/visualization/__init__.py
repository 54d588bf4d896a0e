"""Scale maps over images, routes of tokens through a grid of scales and stages, accuracy against cost."""

from .routes import depth_map, draw_route_summary, draw_routes, route_maps
from .scale_map import draw_scale_map
from .tradeoff import draw_tradeoff, pareto_front
from .visualizer import GatedSegLocalVisualizer, draw_choices

__all__ = [
    'GatedSegLocalVisualizer',
    'depth_map',
    'draw_choices',
    'draw_route_summary',
    'draw_routes',
    'draw_scale_map',
    'draw_tradeoff',
    'pareto_front',
    'route_maps',
]
