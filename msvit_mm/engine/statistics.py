"""What the gate chose on the validation images, in the log and in the visualizer's scalars."""

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement


@HOOKS.register_module()
class GateStatisticsHook(Hook):
    """Log the spread of the gate's choices over the images of a validation or test run.

    Writes to the log, and as scalars ``gate/*`` to the visualizer: mean and deviation over images of the coarse ratio,
    or over routes of the cost relative to PVTv2; mean, 5th and 95th percentile of tokens and of GMACs per image, of
    detectors the backbone's; and over routes the share of open tokens on every edge, ``gate/routes_s8_2`` for stage 2
    of the row of stride 8.
    """

    def before_val_epoch(self, runner: Runner) -> None:
        self._rows, self._shares, self._ratio_name = [], [], 'coarse_ratio'

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._rows += [(s.scale_map.data.mean().item(), s.num_tokens, s.gmacs) for s in outputs if 'scale_map' in s]
        routed = [s for s in outputs if 'reference_gmacs' in s]
        if routed:
            self._ratio_name = 'route_ratio'
            for s in routed:
                ratio, gmacs = s.backbone_gmacs / s.reference_gmacs, s.get('gmacs', s.backbone_gmacs)
                self._rows.append((ratio, s.num_tokens, gmacs))
            self._shares += [open_shares(s) for s in routed]

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if not self._rows:
            return
        scalars = summarize_choices(*np.array(self._rows).T, self._ratio_name)
        shares = {name: float(np.mean([image[name] for image in self._shares])) for name in (self._shares or [{}])[0]}
        logged = {f'gate/{name}': value for name, value in (scalars | shares).items()}
        runner.visualizer.add_scalars(logged, step=runner.iter)
        runner.logger.info('gate on this rank: ' + ', '.join(f'{name} {value:.4g}' for name, value in scalars.items()))

    before_test_epoch = before_val_epoch
    after_test_iter = after_val_iter
    after_test_epoch = after_val_epoch


def open_shares(sample: BaseDataElement) -> dict[str, float]:
    """Share of open tokens on every edge of a routing space, by the name of its map and its stage or column."""
    maps = {name: x.data.flatten(1).mean(1) for name, x in sample.items() if name.startswith(('routes_', 'merges_'))}
    shares = {f'{name}_{j}': share.item() for name, x in maps.items() for j, share in enumerate(x)}
    return {name: share for name, share in shares.items() if share == share}  # without edges that do not exist


def summarize_choices(
    ratio: np.ndarray, num_tokens: np.ndarray, gmacs: np.ndarray, ratio_name: str = 'coarse_ratio'
) -> dict[str, float]:
    """Means and spreads over images.

    Args:
        ratio: Share of coarse regions of each image, or its cost relative to a dense model, shape (n,).
        num_tokens: Active patch tokens of each image, shape (n,).
        gmacs: Multiply-adds of each image in 1e9, shape (n,).
        ratio_name: Name of the first.
    """
    summary = {ratio_name: ratio.mean(), f'{ratio_name}_std': ratio.std()}
    for name, values in (('num_tokens', num_tokens), ('gmacs', gmacs)):
        summary[name] = values.mean()
        summary[f'{name}_p5'], summary[f'{name}_p95'] = np.percentile(values, (5, 95))
    return {name: float(value) for name, value in summary.items()}
