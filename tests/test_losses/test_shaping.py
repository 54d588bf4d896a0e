import json
from pathlib import Path

import pytest
import torch

from msvit_mm.losses import BatchShapingLoss, BetaShapingLoss, shaping

REFERENCE = json.loads((Path(__file__).parents[1] / 'data' / 'batch_shaping.json').read_text())


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


def test_beta_shaping_treats_positions_alike_but_apart():
    loss, gate_values = BetaShapingLoss(), random_values(8)
    single = [loss(gate_values[:, row, col, None, None])['loss_gate_prior'] for row in range(2) for col in range(3)]
    close(loss(gate_values)['loss_gate_prior'], torch.stack(single).mean(), tolerance=1e-6)


@pytest.mark.parametrize(('coarse_ratio', 'wanted'), [(0.75, 8), (0.25, 8), (0.5, 4), (0.9, 20)])
def test_small_batches_are_warned_of_once(coarse_ratio, wanted, monkeypatch):
    messages = []
    monkeypatch.setattr(shaping, 'print_log', lambda message, **kwargs: messages.append(message))
    loss = BatchShapingLoss(grid_size=(2, 3), coarse_ratio=coarse_ratio)
    loss(random_values(wanted))
    assert not messages
    loss(random_values(wanted - 1))
    loss(random_values(wanted - 1))
    assert len(messages) == 1
    for word in (f'{wanted - 1} images', f'coarse_ratio {coarse_ratio}', f'at least {wanted},', 'GateCrops'):
        assert word in messages[0]
