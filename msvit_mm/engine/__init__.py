"""What runs beside the training loop: the gate's schedule and statistics, optimizer groups."""

from .layer_decay import GatedLayerDecayConstructor
from .schedule import GateScheduleHook
from .statistics import GateStatisticsHook

__all__ = ['GateScheduleHook', 'GateStatisticsHook', 'GatedLayerDecayConstructor']
