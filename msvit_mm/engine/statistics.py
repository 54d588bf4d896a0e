"""What the gate chose on the validation images, in the log and in the visualizer's scalars."""

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class GateStatisticsHook(Hook):
    """Log the spread of the gate's choices over the images of a validation or test run.

    Writes to the log, and as scalars ``gate/*`` to the visualizer: mean and deviation over images of the coarse ratio;
    mean, 5th and 95th percentile of tokens and of GMACs per image.
    """

    def before_val_epoch(self, runner: Runner) -> None:
        self._rows = []

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._rows += [(s.scale_map.data.mean().item(), s.num_tokens, s.gmacs) for s in outputs if 'scale_map' in s]

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if not self._rows:
            return
        scalars = summarize_choices(*np.array(self._rows).T)
        runner.visualizer.add_scalars({f'gate/{name}': value for name, value in scalars.items()}, step=runner.iter)
        runner.logger.info('gate on this rank: ' + ', '.join(f'{name} {value:.4g}' for name, value in scalars.items()))

    before_test_epoch = before_val_epoch
    after_test_iter = after_val_iter
    after_test_epoch = after_val_epoch


def summarize_choices(coarse_ratio: np.ndarray, num_tokens: np.ndarray, gmacs: np.ndarray) -> dict[str, float]:
    """Means and spreads over images.

    Args:
        coarse_ratio: Share of coarse regions of each image, shape (n,).
        num_tokens: Active patch tokens of each image, shape (n,).
        gmacs: Multiply-adds of each image in 1e9, shape (n,).
    """
    summary = {'coarse_ratio': coarse_ratio.mean(), 'coarse_ratio_std': coarse_ratio.std()}
    for name, values in (('num_tokens', num_tokens), ('gmacs', gmacs)):
        summary[name] = values.mean()
        summary[f'{name}_p5'], summary[f'{name}_p95'] = np.percentile(values, (5, 95))
    return {name: float(value) for name, value in summary.items()}
