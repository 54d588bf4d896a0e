import math

import pytest
import torch

from msvit_mm.ops.gating import hard_decisions, relaxed_gate_sample, straight_through, zero_with_gradient

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
