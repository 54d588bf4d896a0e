"""Scale maps drawn over images; the routes of tokens through a grid of scales and stages."""

from .routes import depth_map, draw_route_summary, draw_routes, route_maps
from .scale_map import draw_scale_map

__all__ = ['depth_map', 'draw_route_summary', 'draw_routes', 'draw_scale_map', 'route_maps']
