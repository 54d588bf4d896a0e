"""Gates: what decides which tokens run. They see images or tokens, and know nothing of the networks behind them."""

from .base import Gate, build_gate, registered
from .context import ContextGate
from .decide import Decision, decide
from .nested import NestedGate, SharedScaleGate, build_region_gate, node_sides
from .region import EdgeGate, FixedGate, RandomGate, RegionGate, ScaleGate, StaticGate
from .route import FixedRoutes, RandomRoutes, RouteGate, TokenGate
from .stated import ShiftedGate, ShuffledRoutes, StatedGate, StatedRoutes

__all__ = [
    'ContextGate',
    'Decision',
    'EdgeGate',
    'FixedGate',
    'FixedRoutes',
    'Gate',
    'NestedGate',
    'RandomGate',
    'RandomRoutes',
    'RegionGate',
    'RouteGate',
    'ScaleGate',
    'SharedScaleGate',
    'ShiftedGate',
    'ShuffledRoutes',
    'StatedGate',
    'StatedRoutes',
    'StaticGate',
    'TokenGate',
    'build_gate',
    'build_region_gate',
    'decide',
    'node_sides',
    'registered',
]
