import math
from itertools import pairwise

import pytest
import torch

from msvit_mm.ops.gating import (
    BudgetError,
    budget_decisions,
    relaxed_gate_sample,
    straight_through,
    threshold,
    zero_with_gradient,
)
from msvit_mm.ops.tiling import Tiling, active_slots, split_costs

NUM_SAMPLES = 100_000


@pytest.mark.parametrize('temperature', [0.3, 1.0])
@pytest.mark.parametrize('gate_logit', [-2.0, 0.0, 1.1])
def test_probability_of_coarse_is_the_sigmoid(gate_logit, temperature):
    decisions = threshold(relaxed_gate_sample(torch.full((NUM_SAMPLES,), gate_logit), temperature))
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
    assert threshold(torch.tensor([0.0, 0.5, 0.5001, 1.0])).tolist() == [0, 0, 1, 1]


def test_straight_through_has_hard_values_and_soft_gradient():
    gate_values = torch.rand(3, 2, 4, requires_grad=True)
    weights = torch.randn(3, 2, 4)
    decisions = straight_through(gate_values)
    assert torch.equal(decisions, (gate_values > 0.5).float())
    assert torch.equal(torch.autograd.grad((decisions * weights).sum(), gate_values)[0], weights)
    zero = zero_with_gradient(gate_values)
    assert not zero.any()
    assert torch.equal(torch.autograd.grad((zero * weights).sum(), gate_values)[0], weights)
    assert not threshold(gate_values).requires_grad


TILINGS = [
    Tiling(90, 150, (16, 32)),
    Tiling(64, 96, (8, 32)),
    Tiling(65, 33, (16, 32)),
    Tiling(65, 90, (8, 16, 32)),
    Tiling(100, 130, (16, 32, 64)),
    Tiling(33, 97, (8, 16, 32)),
]
every_tiling = pytest.mark.parametrize('tiling', TILINGS, ids=str)


def random_logits(tiling, batch=3):
    """Logits of which some are equal."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, scale.rows, scale.cols) for scale in tiling.scales[:-1]]
    return [torch.randn(shape, generator=generator).round(decimals=1) for shape in shapes]


def nodes_in_order(tiling, logits, image):
    """(logit that counts, scale, row, col) of all nodes that can be split: a node never comes before its ancestors."""
    nodes = []
    for s, scale in enumerate(tiling.scales[:-1]):
        for row in range(scale.rows):
            for col in range(scale.cols):
                above = [
                    logits[t][image, row * scale.side // other.side, col * scale.side // other.side].item()
                    for t, other in enumerate(tiling.scales[: s + 1])
                ]
                nodes.append((max(above), s, row, col))
    return sorted(nodes)


@every_tiling
def test_a_budget_is_spent_in_the_order_of_the_logits(tiling):
    """Against the rule spelt out: split node after node while the next fits."""
    logits, costs = random_logits(tiling), split_costs(tiling)
    for token_budget in torch.linspace(tiling.num_regions, tiling.num_cells, 7).tolist():
        decisions = budget_decisions(logits, tiling, token_budget)
        assert [x.dtype for x in decisions] == [x.dtype for x in logits]
        expected = [torch.ones_like(x) for x in logits]
        for image in range(3):
            spare = token_budget - tiling.num_regions + 1e-6
            for _, s, row, col in nodes_in_order(tiling, logits, image):
                spare -= costs[s][row, col].item()
                if spare < 0:
                    break
                expected[s][image, row, col] = 0
        torch.testing.assert_close(list(decisions), expected, rtol=0, atol=0)
        if len(logits) == 1:
            assert torch.equal(budget_decisions(logits[0], tiling, token_budget), decisions[0])


@every_tiling
def test_a_budget_is_kept_and_one_more_split_would_exceed_it(tiling):
    logits, costs = random_logits(tiling), split_costs(tiling)
    for token_budget in torch.linspace(tiling.num_regions, tiling.num_cells, 7).tolist():
        decisions = budget_decisions(logits, tiling, token_budget)
        num_tokens = active_slots(decisions, tiling).flatten(1).sum(1)
        assert (num_tokens <= token_budget + 1e-3).all()
        for image in range(3):
            whole = [node for node in nodes_in_order(tiling, logits, image) if decisions[node[1]][image][node[2:]]]
            if whole:
                _, s, row, col = whole[0]
                assert num_tokens[image] + costs[s][row, col] > token_budget
        if token_budget == tiling.num_cells:
            assert (num_tokens == tiling.num_cells).all()


@every_tiling
def test_what_contains_a_split_node_is_split(tiling):
    logits = random_logits(tiling)
    for token_budget in torch.linspace(tiling.num_regions, tiling.num_cells, 7).tolist():
        decisions = budget_decisions(logits, tiling, token_budget)
        for (parent, child), (larger, smaller) in zip(pairwise(tiling.scales[:-1]), pairwise(decisions), strict=True):
            for row in range(child.rows):
                for col in range(child.cols):
                    about = larger[:, row * child.side // parent.side, col * child.side // parent.side]
                    assert (about <= smaller[:, row, col]).all()


def test_each_image_has_its_own_budget():
    tiling = Tiling(32, 64, (16, 32))
    gate_logits = torch.tensor([[[-3.0, -2.0]], [[-1.0, 1.0]]])
    assert budget_decisions(gate_logits, tiling, 5).tolist() == [[[0, 1]], [[0, 1]]]


@pytest.mark.parametrize('token_budget', [0, 14.9, float('nan')])
def test_a_budget_out_of_reach_is_refused(token_budget):
    message = rf'at least 15 tokens \(all regions coarse\) for images of \(90, 150\) pixels, got {token_budget}'
    with pytest.raises(BudgetError, match=message):
        budget_decisions(torch.zeros(2, 3, 5), TILINGS[0], token_budget)
