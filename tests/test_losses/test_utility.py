"""Utilities teach the gate where being fine wins most."""

import pytest
import torch
import torch.nn.functional as F

from msvit_mm.losses import UtilityGateLoss, region_means


def test_equals_the_formula():
    loss = UtilityGateLoss(coarse_ratio=0.5, weight=2.0)
    logits, utilities = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    drawn = torch.rand(2, 3, 4) < 0.7
    u, g = utilities[drawn], logits[drawn]
    quantile = torch.quantile(u, 0.5)
    distance = (u - quantile).abs()
    terms = (distance / distance.mean()).clamp(0.1, 5) * F.binary_cross_entropy_with_logits(
        g, (u < quantile).float(), reduction='none'
    )
    torch.testing.assert_close(loss(logits, utilities, drawn)['loss_gate_utility'], 2 * terms.mean())
    assert loss.quantile == quantile


def test_the_quantile_moves_slowly_after_the_first_batch():
    loss = UtilityGateLoss(coarse_ratio=0.5, momentum=0.9)
    everywhere = torch.ones(1, 1, 3, dtype=torch.bool)
    for values in ([0.0, 1.0, 2.0], [10.0, 11.0, 12.0]):
        loss(torch.zeros(1, 1, 3), torch.tensor([[values]]), everywhere)
    assert loss.quantile.item() == pytest.approx(0.9 * 1 + 0.1 * 11)


def test_a_gate_learns_to_be_fine_where_it_wins():
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    utilities = torch.tensor([[[0.0, 0.1], [0.2, 5.0]]])
    UtilityGateLoss()(logits, utilities, torch.ones(1, 2, 2, dtype=torch.bool))['loss_gate_utility'].backward()
    assert (logits.grad.sign() == torch.tensor([[[-1.0, -1.0], [-1.0, 1.0]]])).all()  # a step lowers the last logit


def test_what_is_not_finite_teaches_nothing():
    loss, logits, drawn = UtilityGateLoss(), torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)
    odd = torch.tensor([[[0.0, torch.nan], [torch.inf, 5.0]]])
    finite = torch.isfinite(odd)
    assert loss(logits, odd, drawn) == UtilityGateLoss()(logits, odd, finite)
    assert loss.quantile.isfinite() and loss(logits, odd, drawn)['loss_gate_utility'].isfinite()
    assert loss(logits, torch.full_like(odd, torch.nan), drawn)['loss_gate_utility'] == 0


def test_every_nth_step_is_due():
    loss = UtilityGateLoss(every=3)
    assert [loss.is_due() for _ in range(7)] == [True, False, False, True, False, False, True]


def test_region_means_ignore_what_does_not_count():
    values, counted = torch.arange(24.0).view(1, 4, 6), torch.ones(1, 4, 6, dtype=torch.bool)
    counted[0, :2, :2] = False
    means = region_means(values, counted, 2)
    assert means.shape == (1, 2, 3)
    assert means[0, 0, 0] == 0 and means[0, 0, 1] == values[0, :2, 2:4].mean()
    assert region_means(values, counted, 4).shape == (1, 1, 2)
    torch.testing.assert_close(region_means(values, counted, 4)[0, 0, 1], values[0, :, 4:].mean())


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(coarse_ratio=1.0), r'coarse_ratio must lie in \(0, 1\), got 1.0'),
        (dict(momentum=1.0), r'momentum must lie in \[0, 1\), got 1.0'),
        (dict(every=0), r'every must lie in \[1, inf\), got 0'),
    ],
)
def test_bad_input(words, message):
    with pytest.raises(ValueError, match=message):
        UtilityGateLoss(**words)
