from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData

from msvit_mm.engine import GateStatisticsHook
from msvit_mm.engine.statistics import summarize_choices


def sample(num_coarse, num_tokens, gmacs):
    scale_map = torch.zeros(1, 2, 3)
    scale_map.view(-1)[:num_coarse] = 1
    costs = dict(num_tokens=num_tokens, gmacs=gmacs, backbone_gmacs=gmacs / 2, cost_ratio=gmacs / 4)
    metainfo = dict(choice_maps=dict(scale_map=('scale', 32), gate_logits=('logits', 32)))
    return BaseDataElement(scale_map=PixelData(data=scale_map), metainfo=metainfo, **costs)


def run_epoch(hook, runner, split, *batches):
    getattr(hook, f'before_{split}_epoch')(runner)
    for i, outputs in enumerate(batches):
        getattr(hook, f'after_{split}_iter')(runner, i, data_batch=None, outputs=outputs)
    getattr(hook, f'after_{split}_epoch')(runner, metrics={})


def test_summary_of_known_choices():
    values = np.arange(101)
    summary = summarize_choices(dict(coarse_ratio=values / 100, num_tokens=values, gmacs=values / 10))
    expected = dict(coarse_ratio=0.5, coarse_ratio_std=np.std(values) / 100, num_tokens=50, num_tokens_p5=5)
    expected |= dict(num_tokens_p95=95, gmacs=5, gmacs_p5=0.5, gmacs_p95=9.5)
    assert summary == pytest.approx(expected)
    assert all(type(value) is float for value in summary.values())


@pytest.mark.parametrize('split', ['val', 'test'])
def test_choices_reach_the_log_and_the_visualizer(split):
    hook, runner = GateStatisticsHook(), SimpleNamespace(visualizer=MagicMock(), logger=MagicMock(), iter=7)
    batches = [[sample(0, 24, 0.5), sample(3, 15, 0.4)], [sample(6, 6, 0.3)]]
    for _ in range(2):  # the second epoch starts from nothing
        run_epoch(hook, runner, split, *batches)
        scalars = runner.visualizer.add_scalars.call_args
        assert scalars.kwargs == dict(step=7)
        gmacs = np.array([0.5, 0.4, 0.3])
        values = dict(coarse_ratio=np.array([0, 0.5, 1]), num_tokens=np.array([24, 15, 6]), gmacs=gmacs)
        expected = summarize_choices(values | dict(cost_ratio=gmacs / 4))
        assert scalars.args[0] == pytest.approx({f'gate/{name}': value for name, value in expected.items()})
        assert 'coarse_ratio 0.5, ' in runner.logger.info.call_args.args[0]
    assert runner.visualizer.add_scalars.call_count == 2


def test_models_without_a_gate_are_passed_over():
    hook, runner = GateStatisticsHook(), SimpleNamespace(visualizer=MagicMock(), logger=MagicMock(), iter=7)
    run_epoch(hook, runner, 'val', [BaseDataElement()])
    runner.visualizer.add_scalars.assert_not_called()


def test_routes_are_summed_up_by_cost_and_edge():
    hook, runner = GateStatisticsHook(), SimpleNamespace(visualizer=MagicMock(), logger=MagicMock(), iter=7)
    samples = []
    for share, gmacs in ((0.0, 0.4), (1.0, 1.2)):
        routes = torch.stack([torch.full((2, 4), torch.nan), torch.full((2, 4), share)])
        costs = dict(num_tokens=int(8 * share), gmacs=gmacs + 1, backbone_gmacs=gmacs, cost_ratio=gmacs / 2)
        metainfo = dict(choice_maps=dict(routes_s8=('routes', 8)))
        samples.append(BaseDataElement(routes_s8=PixelData(data=routes), metainfo=metainfo, **costs))
    run_epoch(hook, runner, 'val', samples)
    (scalars,), _ = runner.visualizer.add_scalars.call_args
    assert scalars['gate/cost_ratio'] == pytest.approx(0.4)
    assert scalars['gate/cost_ratio_std'] == pytest.approx(0.2)
    assert scalars['gate/routes_s8_1'] == 0.5
    assert 'gate/routes_s8_0' not in scalars and 'gate/coarse_ratio' not in scalars


def test_of_detectors_the_backbone_is_summed_up():
    hook, runner = GateStatisticsHook(), SimpleNamespace(visualizer=MagicMock(), logger=MagicMock(), iter=7)
    sample = BaseDataElement(num_tokens=8, backbone_gmacs=0.5, cost_ratio=0.25, metainfo=dict(choice_maps={}))
    run_epoch(hook, runner, 'val', [sample])
    (scalars,), _ = runner.visualizer.add_scalars.call_args
    assert scalars['gate/gmacs'] == 0.5 and scalars['gate/cost_ratio'] == 0.25
