import pytest
import torch

from msvit_mm.gates import decide
from msvit_mm.ops.checks import check_decisions
from msvit_mm.ops.gating import budget_decisions
from msvit_mm.ops.tiling import Tiling

TILING = Tiling(70, 90, (16, 32))
LOGITS = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0))


def test_the_sign_decides_without_noise():
    gate_values, decisions = decide(LOGITS, TILING, temperature=0.5)
    assert torch.equal(gate_values, torch.sigmoid(2 * LOGITS))
    assert torch.equal(decisions, (LOGITS > 0).float())


def test_noise_turns_decisions_over_and_values_keep_their_gradient():
    logits = LOGITS.clone().requires_grad_()
    gate_values, decisions = decide(logits, TILING, noise=True)
    assert torch.equal(decisions, (gate_values > 0.5).float())
    assert not torch.equal(decisions, (LOGITS > 0).float())
    assert gate_values.requires_grad and not decisions.requires_grad


def test_under_a_budget_logits_only_rank():
    gate_values, decisions = decide(LOGITS + 50, TILING, token_budget=20)
    assert torch.equal(decisions, budget_decisions(LOGITS, TILING, 20))
    assert torch.equal(gate_values, torch.sigmoid(LOGITS + 50))


@pytest.mark.parametrize('budget', [None, 20])
def test_given_decisions_overrule_gate_and_budget(budget):
    given = torch.randint(2, LOGITS.shape)
    gate_values, decisions = decide(LOGITS.double(), TILING, token_budget=budget, given=given)
    assert torch.equal(decisions, given.double())
    assert torch.equal(gate_values, LOGITS.double().sigmoid())


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (torch.zeros(4, 3, 2), r'shape \(B, rows, cols\) = \(4, 3, 3\), got \(4, 3, 2\)'),
        (torch.full((4, 3, 3), 0.5), r'must be 0 \(fine\) or 1 \(coarse\), got \[0.5\]'),
        (torch.full((4, 3, 3), torch.nan), r'must be 0 \(fine\) or 1 \(coarse\), got \[nan'),
    ],
)
def test_other_decisions_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        decide(LOGITS, TILING, given=given)


def test_the_two_values_are_named_as_asked():
    with pytest.raises(ValueError, match=r'must be 0 \(closed\) or 1 \(open\), got \[2.0\]'):
        check_decisions(torch.full((2, 2), 2.0), torch.zeros(2, 2), '0 (closed) or 1 (open)')
