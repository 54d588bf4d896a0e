"""Say when a gate that learns chooses the same for everything."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .schedule import unwrap

CAUSES = {
    'coarse': 'its loss outweighs the task: lower the weights of GateScheduleHook or the wanted coarse ratio',
    'fine': 'its loss is too weak, or its learning rate too high: raise the weights or the wanted coarse ratio, '
    'or lower lr_mult of backbone.gate',
}


@HOOKS.register_module()
class GateSaturationHook(Hook):
    """Warn of a gate over regions that has been all coarse or all fine for long, though it is to learn.

    Warm-up, gates without parameters and frozen ones are passed over. Each time it happens, it is said once.

    Args:
        patience: Iterations on end.
        tolerance: How far the coarse ratio may be from 0 or 1 and still count.
    """

    def __init__(self, patience: int = 100, tolerance: float = 0.002) -> None:
        self.patience = patience
        self.tolerance = tolerance
        self._count, self._side = 0, ''

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        model = unwrap(runner.model)
        ratio = (outputs or {}).get('coarse_ratio')
        if ratio is None or getattr(model, 'gate_phase', '') != 'learn' or not model.backbone.gate.learnable:
            return
        ratio = float(ratio)
        side = 'coarse' if ratio >= 1 - self.tolerance else 'fine' if ratio <= self.tolerance else ''
        self._count = self._count + 1 if side and side == self._side else int(bool(side))
        self._side = side
        if side and self._count == self.patience:
            runner.logger.warning(
                f'The gate has been all {side} for {self.patience} iterations, up to {runner.iter + 1}: it chooses '
                f'nothing. The likely cause: {CAUSES[side]}.'
            )
