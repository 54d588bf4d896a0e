"""Stop a training whose numbers are no longer numbers."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..ops.finite import first_nonfinite


class NonFiniteError(ValueError):
    """A loss or a weight is NaN or infinite."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop at the first loss that is NaN or infinite, and save no such weights: the last good checkpoint stays."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        losses = {name: value for name, value in (outputs or {}).items() if 'loss' in name}
        total = losses.pop('loss', 0.0)
        name = first_nonfinite(losses) or first_nonfinite(dict(loss=total))
        if name is not None:
            value = float(torch.as_tensor(losses.get(name, total)).detach().sum())
            raise NonFiniteError(
                f'iteration {runner.iter + 1}: wanted finite losses, got {name} = {value}; {_last(runner)}; '
                'a lower learning rate, clip_grad, or the data of this batch may mend it.'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        name = first_nonfinite({part: checkpoint[part] for part in ('state_dict', 'optimizer') if part in checkpoint})
        if name is not None:
            raise NonFiniteError(
                f'checkpoint of iteration {checkpoint["meta"].get("iter")}: wanted finite numbers, got NaN or infinity '
                f'in {name}; not saved, {_last(runner)}.'
            )


def _last(runner: Runner) -> str:
    """Which checkpoint is there."""
    path = next((hook.finished for hook in runner.hooks if getattr(hook, 'finished', None)), None)
    return f'the last good checkpoint is {path}' if path else 'no checkpoint has been saved before'
