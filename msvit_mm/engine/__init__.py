"""What runs beside the training loop: checkpoints and guards, the gate's schedule and statistics, optimizer groups."""

from .calibration import GateCalibrationHook
from .checkpoint import SafeCheckpointHook
from .finite import FiniteLossHook, NonFiniteError
from .fitting import GateFitHook
from .interrupt import Interrupted, InterruptHook
from .layer_decay import GatedLayerDecayConstructor
from .random_state import RandomStateHook
from .sanity import SanityCheckHook
from .saturation import GateSaturationHook
from .schedule import GateScheduleHook
from .statistics import GateStatisticsHook
from .watch import RankWatchHook

__all__ = [
    'FiniteLossHook',
    'GateCalibrationHook',
    'GateFitHook',
    'GateSaturationHook',
    'GateScheduleHook',
    'GateStatisticsHook',
    'GatedLayerDecayConstructor',
    'InterruptHook',
    'Interrupted',
    'NonFiniteError',
    'RandomStateHook',
    'RankWatchHook',
    'SafeCheckpointHook',
    'SanityCheckHook',
]
