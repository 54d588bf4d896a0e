import itertools
import math

import pytest
import torch

from msvit_mm.ops.gating import (
    BUDGET_SCOPES,
    budget_decisions,
    hard_decisions,
    relaxed_gate_sample,
    straight_through,
    zero_with_gradient,
)
from msvit_mm.ops.regions import RegionGrid, active_slots

NUM_SAMPLES = 100_000


@pytest.mark.parametrize('temperature', [0.3, 1.0])
@pytest.mark.parametrize('gate_logit', [-2.0, 0.0, 1.1])
def test_probability_of_coarse_is_the_sigmoid(gate_logit, temperature):
    decisions = hard_decisions(relaxed_gate_sample(torch.full((NUM_SAMPLES,), gate_logit), temperature))
    probability = 1 / (1 + math.exp(-gate_logit))
    five_deviations = 5 * math.sqrt(probability * (1 - probability) / NUM_SAMPLES)
    assert decisions.mean().item() == pytest.approx(probability, abs=five_deviations)


@pytest.mark.parametrize('temperature', [0.5, 1.0])
def test_quantiles_are_those_of_the_relaxed_bernoulli(temperature):
    values = relaxed_gate_sample(torch.full((NUM_SAMPLES,), 0.7), temperature).sort().values
    for share in (0.1, 0.5, 0.9):
        expected = 1 / (1 + math.exp(-(0.7 + math.log(share / (1 - share))) / temperature))
        assert values[int(share * NUM_SAMPLES)].item() == pytest.approx(expected, abs=0.01)


def test_without_noise_it_is_the_tempered_sigmoid():
    gate_logits = torch.tensor([-2.0, 0.5])
    assert torch.equal(relaxed_gate_sample(gate_logits, 0.5, noise=False), torch.sigmoid(2 * gate_logits))


@pytest.mark.parametrize('draw', [torch.zeros_like, torch.ones_like])
def test_extreme_noise_stays_finite(monkeypatch, draw):
    monkeypatch.setattr(torch, 'rand_like', draw)
    gate_logits = torch.zeros(3, requires_grad=True)
    values = relaxed_gate_sample(gate_logits)
    values.sum().backward()
    assert ((values > 0) & (values < 1)).all()
    assert gate_logits.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision_is_at_least_single(dtype):
    values = relaxed_gate_sample(torch.zeros(2, dtype=dtype))
    assert values.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize('temperature', [0, -1.0])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match=f'temperature must be positive, got {temperature}'):
        relaxed_gate_sample(torch.zeros(1), temperature)


def test_a_half_is_fine():
    assert hard_decisions(torch.tensor([0.0, 0.5, 0.5001, 1.0])).tolist() == [0, 0, 1, 1]


def test_straight_through_has_hard_values_and_soft_gradient():
    gate_values = torch.rand(3, 2, 4, requires_grad=True)
    weights = torch.randn(3, 2, 4)
    decisions = straight_through(gate_values)
    assert torch.equal(decisions, (gate_values > 0.5).float())
    assert torch.equal(torch.autograd.grad((decisions * weights).sum(), gate_values)[0], weights)
    zero = zero_with_gradient(gate_values)
    assert not zero.any()
    assert torch.equal(torch.autograd.grad((zero * weights).sum(), gate_values)[0], weights)
    assert not hard_decisions(gate_values).requires_grad


GRIDS = [RegionGrid(90, 150, 16, 32), RegionGrid(64, 96, 8, 32), RegionGrid(65, 33, 16, 32)]  # the first and last cut


@pytest.mark.parametrize('scope', BUDGET_SCOPES)
@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_a_budget_is_spent_in_the_order_of_the_logits(grid, scope):
    """Against the rule spelt out: open region after region while the next fits."""
    gate_logits = torch.randn(3, grid.rows, grid.cols, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    cells = active_slots(torch.zeros(1, grid.rows, grid.cols), grid)[0].sum(1).tolist()
    for token_budget in torch.linspace(grid.num_regions, grid.num_cells, 7).tolist():
        decisions = budget_decisions(gate_logits, grid, token_budget, scope)
        num_tokens = active_slots(decisions, grid).flatten(1).sum(1)
        places = list(itertools.product(range(3), range(grid.num_regions)))
        rankings = [places] if scope == 'batch' else [[place for place in places if place[0] == i] for i in range(3)]
        expected = torch.ones(3, grid.num_regions)
        for ranking in rankings:
            spare = len(ranking) / grid.num_regions * (token_budget - grid.num_regions) + 1e-6
            for i, r in sorted(ranking, key=lambda place: gate_logits.flatten(1)[place].item()):
                spare -= cells[r] - 1
                if spare < 0:
                    break
                expected[i, r] = 0
        assert torch.equal(decisions.flatten(1), expected)

        totals = num_tokens if scope == 'image' else num_tokens.float().mean(0, keepdim=True)
        spared = (token_budget - totals) * (1 if scope == 'image' else 3)
        assert (spared > -1e-3).all()  # never above
        assert (spared < grid.scale**2 - 1).all()  # one more region would be


def test_images_of_a_batch_compete_for_its_budget():
    grid = RegionGrid(32, 64, 16, 32)
    gate_logits = torch.tensor([[[-3.0, -2.0]], [[-1.0, 1.0]]])
    assert budget_decisions(gate_logits, grid, 5, 'image').tolist() == [[[0, 1]], [[0, 1]]]
    assert budget_decisions(gate_logits, grid, 5, 'batch').tolist() == [[[0, 0]], [[1, 1]]]
    assert budget_decisions(gate_logits, grid, 5, 'batch').dtype == gate_logits.dtype


@pytest.mark.parametrize('scope', BUDGET_SCOPES)
@pytest.mark.parametrize('token_budget', [0, 14.9, 60.5, float('nan')])
def test_a_budget_out_of_reach_is_refused(token_budget, scope):
    message = rf'between 15 \(all regions coarse\) and 60 .* images of \(90, 150\) pixels, got {token_budget}'
    with pytest.raises(ValueError, match=message):
        budget_decisions(torch.zeros(2, 3, 5), GRIDS[0], token_budget, scope)
