"""Scale maps drawn over images, and accuracy drawn against cost."""

from .scale_map import draw_scale_map
from .tradeoff import draw_tradeoff, pareto_front

__all__ = ['draw_scale_map', 'draw_tradeoff', 'pareto_front']
