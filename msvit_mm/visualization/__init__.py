"""Scale maps over images, routes of tokens through a grid of scales and stages, accuracy against cost."""

from .routes import depth_map, draw_route_summary, draw_routes, route_maps
from .scale_map import draw_scale_map
from .tradeoff import draw_tradeoff, pareto_front

__all__ = [
    'depth_map',
    'draw_route_summary',
    'draw_routes',
    'draw_scale_map',
    'draw_tradeoff',
    'pareto_front',
    'route_maps',
]
