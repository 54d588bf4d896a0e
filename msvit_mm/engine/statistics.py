"""What the gate chose on the validation images, in the log and in the visualizer's scalars."""

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ..backbones import coarse_ratios


@HOOKS.register_module()
class GateStatisticsHook(Hook):
    """Log the spread of the gate's choices over the images of a validation or test run.

    Writes to the log, and as scalars ``gate/*`` to the visualizer: mean and deviation over images of the cost relative
    to the dense network and, where the gate decides regions, of the coarse ratio; mean, 5th and 95th percentile of
    tokens and of GMACs per image, of detectors the backbone's; and over routes the share of open tokens on every edge,
    ``gate/routes_s8_2`` for stage 2 of the row of stride 8.
    """

    def before_val_epoch(self, runner: Runner) -> None:
        self._rows: list[dict[str, float]] = []
        self._shares: list[dict[str, float]] = []

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for sample in (x for x in outputs if 'choice_maps' in x):
            self._rows.append(describe_sample(sample))
            self._shares.append(open_shares(sample))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if not self._rows:
            return
        scalars = summarize_choices({name: np.array([row[name] for row in self._rows]) for name in self._rows[0]})
        shares = {name: float(np.mean([image[name] for image in self._shares])) for name in self._shares[0]}
        logged = {f'gate/{name}': value for name, value in (scalars | shares).items()}
        runner.visualizer.add_scalars(logged, step=runner.iter)
        runner.logger.info('gate on this rank: ' + ', '.join(f'{name} {value:.4g}' for name, value in scalars.items()))

    before_test_epoch = before_val_epoch
    after_test_iter = after_val_iter
    after_test_epoch = after_val_epoch


def describe_sample(sample: BaseDataElement) -> dict[str, float]:
    """Ratios, tokens and GMACs of one prediction."""
    scales = [name for name, (kind, _) in sample.choice_maps.items() if kind == 'scale']
    ratios = coarse_ratios({name: sample.get(name).data for name in scales})
    costs = dict(cost_ratio=sample.cost_ratio, num_tokens=sample.num_tokens)
    return ratios | costs | dict(gmacs=sample.get('gmacs', sample.backbone_gmacs))


def open_shares(sample: BaseDataElement) -> dict[str, float]:
    """Share of open tokens on every edge of a routing space, by the name of its map and its stage or column."""
    names = [name for name, (kind, _) in sample.choice_maps.items() if kind in ('routes', 'merges')]
    shares = {f'{x}_{j}': y.item() for x in names for j, y in enumerate(sample.get(x).data.flatten(1).mean(1))}
    return {name: share for name, share in shares.items() if share == share}  # without edges that do not exist


def summarize_choices(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Means and spreads over images: deviations of ratios, percentiles of all else.

    Args:
        values: Of each image by name, shape (n,) each.

    Example:
        >>> summarize_choices(dict(coarse_ratio=np.array([0.5, 0.7]), num_tokens=np.array([60, 80])))['num_tokens_p95']
        79.0
    """
    summary = {}
    for name, x in values.items():
        summary[name] = x.mean()
        if 'ratio' in name:
            summary[f'{name}_std'] = x.std()
        else:
            summary[f'{name}_p5'], summary[f'{name}_p95'] = np.percentile(x, (5, 95))
    return {name: float(value) for name, value in summary.items()}
