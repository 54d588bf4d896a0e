import json
from functools import partial
from pathlib import Path

import pytest
import torch
from scipy.special import betainc

from msvit_mm.ops import beta_cdf, cramer_von_mises, normal_cdf, relaxed_bernoulli_cdf

REFERENCE = json.loads((Path(__file__).parents[1] / 'data' / 'batch_shaping.json').read_text())
SHAPES = torch.tensor([0.05, 0.2, 0.6, 1.0, 3.0, 17.0, 50.0], dtype=torch.float64)
CDFS = {
    'relaxed_bernoulli': partial(
        relaxed_bernoulli_cdf, mean=torch.tensor([0.3, 0.9]), temperature=torch.tensor([0.5, 2.0])
    ),
    'normal': partial(normal_cdf, mean=torch.tensor([0.3, 0.9]), std=torch.tensor([0.1, 0.4])),
    'beta': partial(beta_cdf, a=torch.tensor([0.6, 30.0]), b=torch.tensor([0.4, 7.0])),
}


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance)


def beta_shapes():
    """Every pair of shape parameters, each (L,)."""
    a, b = torch.meshgrid(SHAPES, SHAPES, indexing='ij')
    return a.flatten(), b.flatten()


@pytest.mark.parametrize('case', REFERENCE['gbas'], ids=lambda case: case['hyper'])
def test_gbas_terms_equal_the_reference(case):
    m, theta, tau = (torch.tensor(case[name], requires_grad=True) for name in ('m', 'theta', 'tau'))
    prior = cramer_von_mises(m, lambda x: relaxed_bernoulli_cdf(x, theta, tau))
    close(prior, case['prior_loss'])
    for gradient, name in zip(torch.autograd.grad(prior, (m, theta, tau)), ('m', 'theta', 'tau'), strict=True):
        close(gradient, case[f'grad_{name}'])

    cdf = {'NORMAL': normal_cdf, 'BETA': beta_cdf}[case['hyper']]
    hyper = cramer_von_mises(theta[:, None], lambda x: cdf(x, *case['hyper_params']))
    close(hyper, case['hyper_loss'])
    close(torch.autograd.grad(hyper, theta)[0], case['grad_theta_hyper'])


@pytest.mark.parametrize('case', REFERENCE['bas'], ids=lambda case: case['kind'])
def test_bas_equals_the_reference(case):
    x = torch.tensor(case['x'], requires_grad=True)
    loss = cramer_von_mises(x[:, None], lambda x: beta_cdf(x, case['a'], case['b']))
    close(loss, case['loss'])
    close(torch.autograd.grad(loss, x)[0], case['grad_x'])


@pytest.mark.parametrize('name', CDFS)
def test_cdf_rises_from_0_to_1(name):
    probabilities = CDFS[name](torch.linspace(-0.5, 1.5, 401)[:, None].expand(-1, 2))
    assert probabilities.shape == (401, 2)
    assert (probabilities.diff(dim=0) >= 0).all()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert (probabilities[-1] - probabilities[0] > 0.9).all()


def test_relaxed_bernoulli_cdf_inverts_its_sampler():
    u, mean, temperature = torch.linspace(0.1, 0.9, 9)[:, None], torch.tensor([0.2, 0.75]), torch.tensor([0.6, 1.5])
    samples = torch.sigmoid((torch.logit(mean) + torch.logit(u)) / temperature)
    close(relaxed_bernoulli_cdf(samples, mean, temperature), u.expand(-1, 2))


def test_relaxed_bernoulli_decides_coarse_with_its_mean():
    mean, temperature = torch.tensor([0.1, 0.5, 0.75]), torch.tensor([0.3, 0.5, 1.0])
    close(1 - relaxed_bernoulli_cdf(torch.full((1, 3), 0.5), mean, temperature), mean[None])


def test_relaxed_bernoulli_cdf_clips_gate_values():
    x = torch.tensor([0.0, 1e-3, 2e-3, 0.5, 1 - 2e-3, 1 - 1e-3, 1.0], requires_grad=True)
    probabilities = relaxed_bernoulli_cdf(x, torch.tensor(0.75), torch.tensor(0.5))
    assert probabilities[0] == probabilities[1] and probabilities[-1] == probabilities[-2]
    gradient = torch.autograd.grad(probabilities.sum(), x)[0]
    assert gradient.isfinite().all()
    assert gradient[0] == 0 and gradient[-1] == 0 and (gradient[2:5] > 0).all()


def test_normal_cdf_equals_the_standard_one_after_scaling():
    x = torch.linspace(-0.5, 1.5, 21, dtype=torch.float64)
    close(normal_cdf(x, 0.75, 0.1), torch.special.ndtr((x - 0.75) / 0.1), tolerance=1e-12)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_beta_cdf_equals_scipy(dtype, tolerance):
    a, b = (shape.to(dtype) for shape in beta_shapes())
    ends = 10.0 ** torch.linspace(-7, -1, 13, dtype=dtype)
    x = torch.cat([ends, torch.linspace(0.1, 0.9, 33, dtype=dtype), 1 - ends])[:, None].expand(-1, len(a))
    expected = torch.from_numpy(betainc(a.double().numpy(), b.double().numpy(), x.double().numpy()))
    torch.testing.assert_close(beta_cdf(x, a, b).double(), expected, rtol=0, atol=tolerance)


def test_beta_cdf_stays_accurate_for_a_narrow_prior():
    a, b = torch.tensor([750.0, 7500.0]), torch.tensor([250.0, 2500.0])
    x = torch.linspace(0.7, 0.8, 41)[:, None].expand(-1, 2)
    expected = torch.from_numpy(betainc(a.double().numpy(), b.double().numpy(), x.double().numpy()))
    torch.testing.assert_close(beta_cdf(x, a, b).double(), expected, rtol=0, atol=1e-5)


def test_beta_cdf_of_the_complement_is_its_mirror_image():
    a, b = beta_shapes()
    x = torch.linspace(1 / 64, 63 / 64, 63, dtype=torch.float64)[:, None].expand(-1, len(a))
    close(beta_cdf(x, a, b), 1 - beta_cdf(1 - x, b, a), tolerance=1e-14)


def test_beta_cdf_is_0_below_and_1_above_its_support():
    a, b = beta_shapes()
    for x, probability in ((-0.5, 0), (0, 0), (1, 1), (1.5, 1)):
        assert (beta_cdf(torch.full((1, len(a)), x, dtype=torch.float64), a, b) == probability).all()


def test_beta_cdf_has_the_density_as_its_derivative():
    a, b = beta_shapes()
    x = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)[:, None].repeat(1, len(a)).requires_grad_()
    gradient = torch.autograd.grad(beta_cdf(x, a, b).sum(), x)[0]
    close(gradient, torch.distributions.Beta(a, b).log_prob(x.detach()).exp(), tolerance=1e-9)


def test_beta_cdf_gradients_pass_gradcheck():
    x = torch.tensor([[0.001, 0.3, 0.7], [0.2, 0.65, 0.999]], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([0.6, 2.0, 20.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0.4, 5.0, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(beta_cdf, (x, a, b))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_beta_cdf_gradients_are_finite_up_to_the_ends(dtype):
    a, b = (shape.to(dtype).requires_grad_() for shape in beta_shapes())
    x = (
        torch.tensor([0, 1e-30, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-7, 1], dtype=dtype)[:, None]
        .repeat(1, len(a))
        .requires_grad_()
    )
    for gradient in torch.autograd.grad(beta_cdf(x, a, b).sum(), (x, a, b)):
        assert gradient.isfinite().all()
        assert gradient.count_nonzero() > 0


@pytest.mark.parametrize('cdf', [normal_cdf, beta_cdf])
def test_numbers_and_tensors_are_the_same_parameters(cdf):
    x = torch.linspace(0.1, 0.9, 5)[:, None].expand(-1, 2)
    close(cdf(x, 0.6, 0.4), cdf(x, torch.tensor([0.6, 0.6]), torch.tensor([0.4, 0.4])), tolerance=1e-7)


@pytest.mark.parametrize('n', [1, 5, 16])
def test_cramer_von_mises_is_minimal_at_the_quantiles(n):
    quantiles = (torch.arange(1, n + 1, dtype=torch.float64) / (n + 1))[:, None].repeat(1, 2).requires_grad_()
    distance = cramer_von_mises(quantiles, lambda x: x)
    assert distance.item() == pytest.approx(0, abs=1e-15)
    assert torch.autograd.grad(distance, quantiles)[0].abs().max() < 1e-12
    moved = quantiles.detach() + torch.tensor([0.0, 0.1], dtype=torch.float64)
    close(cramer_von_mises(moved, lambda x: x), 0.1**2 / 2, tolerance=1e-12)


def test_cramer_von_mises_ignores_the_order_of_the_sample():
    x = torch.rand(7, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    cdf = partial(normal_cdf, mean=torch.tensor([0.2, 0.5, 0.8]), std=0.3)
    distance, shuffled = cramer_von_mises(x, cdf), cramer_von_mises(x[order], cdf)
    assert distance == shuffled
    close(torch.autograd.grad(shuffled, x)[0], torch.autograd.grad(distance, x)[0], tolerance=1e-7)


def test_cramer_von_mises_averages_positions_that_do_not_mix():
    x = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    single = [cramer_von_mises(x[:, i : i + 1], lambda x: x) for i in range(3)]
    close(cramer_von_mises(x, lambda x: x), torch.stack(single).mean(), tolerance=1e-7)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (
            lambda x: relaxed_bernoulli_cdf(x, torch.tensor(0.5), torch.tensor([0.5, 0.0])),
            'temperature must be positive, got 0',
        ),
        (lambda x: normal_cdf(x, 0.5, -1.0), r'std must be positive, got -1\.0'),
        (lambda x: beta_cdf(x, 0.0, 1.0), r'a must be positive, got 0\.0'),
        (lambda x: beta_cdf(x, 1.0, torch.tensor([1.0, float('nan')])), 'b must be positive, got nan'),
        (lambda x: cramer_von_mises(x[0], lambda x: x), r'shape \(n, L\), got \(2,\)'),
        (lambda x: cramer_von_mises(x, lambda x: x.mean(1)), r'cdf must return shape \(3, 2\), got \(3,\)'),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.full((3, 2), 0.5))
