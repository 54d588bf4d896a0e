"""What all losses on gate values have in common."""

import sys

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import msvit_mm

assert msvit_mm.__version__  # which registers the losses, also in the processes that this file starts
ALL_LOSSES = [
    dict(type='BatchShapingLoss', grid_size=(2, 3)),
    dict(type='BatchShapingLoss', grid_size=(2, 3), hyperprior='beta'),
    dict(type='BetaShapingLoss'),
    dict(type='RatioLoss', norm='l0'),
    dict(type='RatioLoss', norm='l1'),
    dict(type='RatioLoss', norm='l2'),
]


def random_values(n, rows=2, cols=3, seed=0):
    return torch.rand(n, rows, cols, generator=torch.Generator().manual_seed(seed))


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('config', ALL_LOSSES)
def test_weight_scales_the_distances_only(config):
    loss = MODELS.build(config)
    before = loss(random_values(8))
    loss.weight = 3.0
    after = loss(random_values(8))
    for name in before:
        close(after[name], before[name] * (1 if name == 'loss_gate_temperature' else 3), tolerance=1e-6)


@pytest.mark.parametrize('config', ALL_LOSSES)
def test_saturated_gates_have_bounded_gradients(config):
    gate_values = torch.tensor([0.0, 1e-20, 1 - 1e-7, 1.0]).repeat(2)[:, None, None].repeat(1, 2, 3).requires_grad_()
    total = sum(MODELS.build(config)(gate_values).values())
    total.backward()
    assert total.isfinite() and gate_values.grad.abs().max() < 1


@pytest.mark.parametrize('config', ALL_LOSSES)
def test_losses_are_computed_in_float32_under_autocast(config):
    loss, gate_values = MODELS.build(config), random_values(8).bfloat16()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms = loss(gate_values)
    for name, expected in loss(gate_values.float()).items():
        assert name.startswith('loss_gate_') and terms[name].dtype == torch.float32
        assert terms[name] == expected


@pytest.mark.parametrize('config', ALL_LOSSES)
def test_wrong_shapes_are_refused(config):
    with pytest.raises(ValueError, match=r'shape \(n, .*\), got \(8, 6\)'):
        MODELS.build(config)(random_values(8).flatten(1))


@pytest.mark.parametrize('config', ALL_LOSSES)
def test_another_grid_is_refused(config):
    loss = MODELS.build({**config, 'grid_size': (2, 3)})
    loss(random_values(8))
    with pytest.raises(ValueError, match=r'shape \(n, 2, 3\), got \(8, 3, 2\)'):
        loss(random_values(8, rows=3, cols=2))


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='BatchShapingLoss', grid_size=(0, 3)), r'grid_size .* got \(0, 3\)'),
        (dict(type='BatchShapingLoss', grid_size=(2, 3), coarse_ratio=1.0), r'coarse_ratio .* got 1\.0'),
        (dict(type='BatchShapingLoss', grid_size=(2, 3), hyperprior='gamma'), "'normal' or 'beta', got 'gamma'"),
        (dict(type='BatchShapingLoss', grid_size=(2, 3), hyperprior_std=0.0), r'hyperprior_std .* got 0\.0'),
        (
            dict(type='BatchShapingLoss', grid_size=(2, 3), hyperprior='beta', hyperprior_std=0.5),
            r'below 0\.43.* got 0\.5',
        ),
        (
            dict(type='BatchShapingLoss', grid_size=(2, 3), initial_temperature=-1.0),
            r'initial_temperature .* got -1\.0',
        ),
        (dict(type='BetaShapingLoss', a=0.0), r'a must lie in \(0, inf\), got 0\.0'),
        (dict(type='RatioLoss', weight=-1.0), r'weight must lie in \[0, inf\), got -1\.0'),
        (dict(type='RatioLoss', coarse_ratio=75), r'coarse_ratio must lie in \[0, 1\], got 75'),
        (dict(type='RatioLoss', norm='l3'), "'l0', 'l1' or 'l2', got 'l3'"),
    ],
)
def test_bad_settings_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(config)


class TinyGate(nn.Module):
    """A linear gate on three features per region, with one gate loss as its output."""

    def __init__(self, config):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        nn.init.constant_(self.linear.weight, 0.5)
        nn.init.constant_(self.linear.bias, 0.1)
        self.loss = MODELS.build(config)

    def forward(self, features):
        return sum(
            self.loss(self.linear(features).sigmoid().squeeze(-1)).values()
        )  # (n, rows, cols, 1) -> (n, rows, cols)


def gradients(gate, features):
    gate(features).backward()
    return {name.removeprefix('module.'): parameter.grad for name, parameter in gate.named_parameters()}


def features_of_regions():
    return torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(0))


def run_process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    features = features_of_regions().chunk(2)[rank]
    results = [gradients(DistributedDataParallel(TinyGate(config)), features) for config in ALL_LOSSES]
    torch.save(results, f'{folder}/{rank}.pt')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_the_global_batch(run_in_two_processes, tmp_path):
    run_in_two_processes(__file__)
    expected = [gradients(TinyGate(config), features_of_regions()) for config in ALL_LOSSES]
    for rank in range(2):
        actual = torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


if __name__ == '__main__':
    run_process(int(sys.argv[1]), sys.argv[2])
