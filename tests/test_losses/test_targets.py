import pytest
import torch

from msvit_mm.losses import BudgetLoss, RatioLoss


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance)


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


def test_budget_is_of_the_mean_cost_and_its_weight_can_move():
    ratios = torch.tensor([0.2, 0.6, 1.0], dtype=torch.float64, requires_grad=True)
    loss = BudgetLoss(budget=0.5, weight=3.0)
    value = loss(ratios)['loss_budget']
    assert value.dtype == torch.float32 and value.item() == pytest.approx(3 * 0.01)
    value.backward()
    close(ratios.grad, torch.full((3,), 3 * 2 * 0.1 / 3, dtype=torch.float64))
    loss.weight = 0.0
    assert loss(ratios)['loss_budget'] == 0
    with pytest.raises(ValueError, match=r'budget must lie in \(0, inf\), got 0'):
        BudgetLoss(budget=0)
