import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from msvit_mm.models import losses
from msvit_mm.models.losses import BatchShapingLoss, BetaShapingLoss, BoundaryGateLoss, BudgetLoss, RatioLoss

REFERENCE = json.loads((Path(__file__).parents[1] / 'data' / 'batch_shaping.json').read_text())
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


@pytest.mark.parametrize(
    ('case', 'hyperprior', 'std'),
    [(REFERENCE['gbas'][0], 'normal', 0.1), (REFERENCE['gbas'][1], 'beta', (0.3 * 0.7 / 11) ** 0.5)],  # Beta(3, 7)
)
def test_batch_shaping_equals_the_reference(case, hyperprior, std):
    m, theta, tau = (torch.tensor(case[name]) for name in ('m', 'theta', 'tau'))
    loss = BatchShapingLoss(grid_size=(2, 3), coarse_ratio=0.3, hyperprior=hyperprior, hyperprior_std=std)
    with torch.no_grad():
        loss.mean_logits.copy_(torch.logit(theta).reshape(2, 3))
        loss.log_temperatures.copy_(tau.log().reshape(2, 3))
    gate_values = m.reshape(-1, 2, 3).requires_grad_()
    terms = loss(gate_values)
    close(terms['loss_gate_prior'], case['prior_loss'])
    close(terms['loss_gate_hyper'], case['hyper_loss'])
    close(terms['loss_gate_temperature'], 0.1 * tau.mean())

    d_theta, d_tau = theta * (1 - theta), tau  # what a step of the learned logit or logarithm does
    inputs = (gate_values, loss.mean_logits, loss.log_temperatures)
    grad_m, grad_theta, grad_tau = torch.autograd.grad(terms['loss_gate_prior'], inputs, retain_graph=True)
    close(grad_m.flatten(1), case['grad_m'])
    close(grad_theta.flatten(), d_theta * torch.tensor(case['grad_theta']))
    close(grad_tau.flatten(), d_tau * torch.tensor(case['grad_tau']))
    grad_hyper = torch.autograd.grad(terms['loss_gate_hyper'], loss.mean_logits)[0]
    close(grad_hyper.flatten(), d_theta * torch.tensor(case['grad_theta_hyper']))


@pytest.mark.parametrize('case', REFERENCE['bas'], ids=lambda case: case['kind'])
def test_beta_shaping_equals_the_reference(case):
    gate_values = torch.tensor(case['x']).reshape(-1, 1, 1).requires_grad_()
    terms = BetaShapingLoss(a=case['a'], b=case['b'])(gate_values)
    close(terms['loss_gate_prior'], case['loss'])
    close(torch.autograd.grad(terms['loss_gate_prior'], gate_values)[0].flatten(), case['grad_x'])


def test_priors_start_at_the_target():
    loss = BatchShapingLoss(grid_size=(2, 3), coarse_ratio=0.8, initial_temperature=0.7)
    close(torch.sigmoid(loss.mean_logits), torch.full((2, 3), 0.8), tolerance=1e-6)
    close(loss.log_temperatures.exp(), torch.full((2, 3), 0.7), tolerance=1e-6)


def test_every_parameter_has_a_gradient():
    loss = BatchShapingLoss(grid_size=(2, 3))
    sum(loss(random_values(8)).values()).backward()
    for name, parameter in loss.named_parameters():
        assert parameter.grad.isfinite().all() and (parameter.grad != 0).all(), name


def test_batch_shaping_alone_reaches_the_ratio_with_both_decisions_everywhere():
    loss = BatchShapingLoss(grid_size=(2, 3), coarse_ratio=0.75)
    gate_logits = torch.randn(16, 2, 3, generator=torch.Generator().manual_seed(0)).sub(1).requires_grad_()
    optimizer = torch.optim.Adam([gate_logits, *loss.parameters()], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        sum(loss(gate_logits.sigmoid()).values()).backward()
        optimizer.step()
    coarse_ratios = (gate_logits > 0).float().mean(0)
    assert coarse_ratios.mean().item() == pytest.approx(0.75, abs=0.03)
    assert ((coarse_ratios > 0.5) & (coarse_ratios < 1)).all()


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


def test_beta_shaping_treats_positions_alike_but_apart():
    loss, gate_values = BetaShapingLoss(), random_values(8)
    single = [loss(gate_values[:, row, col, None, None])['loss_gate_prior'] for row in range(2) for col in range(3)]
    close(loss(gate_values)['loss_gate_prior'], torch.stack(single).mean(), tolerance=1e-6)


@pytest.mark.parametrize(('norm', 'expected'), [('l1', 0.25), ('l2', 0.0625)])
def test_ratio_loss_measures_the_mean_only(norm, expected):
    loss = RatioLoss(coarse_ratio=0.75, norm=norm)
    spread = torch.tensor([0.2, 0.8]).reshape(2, 1, 1).expand(2, 2, 3)
    close(loss(spread)['loss_gate_ratio'], expected, tolerance=1e-6)
    close(loss(spread + 0.25)['loss_gate_ratio'], 0.0, tolerance=1e-6)


def test_l0_counts_decisions_and_pulls_every_value():
    gate_values = torch.tensor([0.51, 0.99, 0.6, 0.49]).reshape(1, 2, 2).requires_grad_()
    loss = RatioLoss(coarse_ratio=0.25, norm='l0')(gate_values)['loss_gate_ratio']
    close(loss, 0.75 - 0.25)
    close(torch.autograd.grad(loss, gate_values)[0], [[[0.25, 0.25], [0.25, 0.25]]])


@pytest.mark.parametrize(('coarse_ratio', 'wanted'), [(0.75, 8), (0.25, 8), (0.5, 4), (0.9, 20)])
def test_small_batches_are_warned_of_once(coarse_ratio, wanted, monkeypatch):
    messages = []
    monkeypatch.setattr(losses, 'print_log', lambda message, **kwargs: messages.append(message))
    loss = BatchShapingLoss(grid_size=(2, 3), coarse_ratio=coarse_ratio)
    loss(random_values(wanted))
    assert not messages
    loss(random_values(wanted - 1))
    loss(random_values(wanted - 1))
    assert len(messages) == 1
    for word in (f'{wanted - 1} images', f'coarse_ratio {coarse_ratio}', f'at least {wanted},', 'GateCrops'):
        assert word in messages[0]


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
        (dict(type='BetaShapingLoss', a=0.0), r'a and b must be positive, got 0\.0 and 0\.4'),
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


def test_two_processes_have_the_gradient_of_the_global_batch(tmp_path):
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in range(2)]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    expected = [gradients(TinyGate(config), features_of_regions()) for config in ALL_LOSSES]
    for rank in range(2):
        actual = torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


if __name__ == '__main__':
    run_process(int(sys.argv[1]), sys.argv[2])


def test_boundary_loss_is_the_cross_entropy_of_what_the_labels_want():
    labels = torch.zeros(2, 20, 48, dtype=torch.long)  # regions of 16 pixels: 2 x 3, the lower ones cut
    labels[0, 3, 20] = 4
    labels[1, 18, 40] = 255
    logits = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = BoundaryGateLoss(weight=2.0)(logits, labels, coarse_patch_size=16)['loss_gate_boundary']
    probability = logits.sigmoid().clone()
    probability[0, 0, 1] = 1 - probability[0, 0, 1]  # the one region with a boundary should be fine
    close(loss, -2 * probability.log().mean())
    gradient = torch.autograd.grad(loss, logits)[0]
    assert gradient[0, 0, 1] > 0
    assert (gradient < 0).sum() == 11


def test_boundary_loss_wants_as_many_regions_as_labels_have():
    with pytest.raises(ValueError, match=r'size'):
        BoundaryGateLoss()(torch.zeros(2, 2, 3), torch.zeros(2, 32, 32, dtype=torch.long), coarse_patch_size=16)


def test_budget_is_of_the_mean_cost_and_its_weight_can_move():
    ratios = torch.tensor([0.2, 0.6, 1.0], dtype=torch.float64, requires_grad=True)
    loss = BudgetLoss(budget=0.5, weight=3.0)
    value = loss(ratios)['loss_budget']
    assert value.dtype == torch.float32 and value.item() == pytest.approx(3 * 0.01)
    value.backward()
    close(ratios.grad, torch.full((3,), 3 * 2 * 0.1 / 3, dtype=torch.float64))
    loss.weight = 0.0
    assert loss(ratios)['loss_budget'] == 0
    with pytest.raises(ValueError, match='budget must be positive, got 0'):
        BudgetLoss(budget=0)
