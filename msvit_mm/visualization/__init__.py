"""Scale maps drawn over images."""

from .scale_map import draw_scale_map

__all__ = ['draw_scale_map']
