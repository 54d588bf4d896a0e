import pytest
import torch

from msvit_mm.gates import RegionGate, ScaleGate, ShiftedGate, StatedGate, StatedRoutes, TokenGate, build_gate
from msvit_mm.ops.gating import relaxed_gate_sample
from msvit_mm.ops.tiling import Tiling

EDGES = {('row', 0, 0): 8, ('merge', 0, 2): 8}
SIZE = (5, 7)


def test_stated_regions_hold_against_any_noise_with_the_gradient_of_the_gate(perturb):
    gate, images = perturb(ScaleGate()), torch.rand(3, 3, 70, 90)
    decisions = torch.randint(2, (3, 3, 3)).float()
    stated = StatedGate(gate, decisions)
    logits = stated(images)
    for _ in range(20):
        assert torch.equal((relaxed_gate_sample(logits) > 0.5).float(), decisions)
    weights, parameters = torch.randn(3, 3, 3), list(gate.parameters())
    gradients = (torch.autograd.grad((x * weights).sum(), parameters) for x in (logits, gate(images)))
    torch.testing.assert_close(*gradients)
    assert stated.learnable and isinstance(stated, RegionGate)


def test_a_gate_under_another_threshold(perturb):
    gate, images = perturb(ScaleGate(initial_ratio=0.5)), torch.rand(2, 3, 70, 90)
    torch.testing.assert_close(ShiftedGate(gate, 0.3)(images), gate(images) - 0.3)


@pytest.mark.parametrize('wrap', [lambda gate: StatedGate(gate, torch.zeros(1, 2, 3)), lambda x: ShiftedGate(x, 0.5)])
def test_a_gate_around_a_gate_costs_what_that_gate_costs(wrap):
    gate, tiling = ScaleGate(coarse_patch_size=16, sample_size=8), Tiling(32, 48, (8, 16))
    outer = wrap(gate)
    assert outer.macs(tiling) == gate.macs(tiling) > 0
    assert outer.coarse_patch_size == 16


def test_stated_routes_hold_against_any_noise_with_the_gradient_of_the_gate():
    gate = build_gate(dict(type='RouteGate', initial_ratio=0.5), TokenGate, edges=EDGES)
    decisions = {('row', 0, 0): torch.randint(2, (2, 5, 7)).float(), ('merge', 0, 2): torch.ones(2, 3, 4)}
    stated, tokens = StatedRoutes(gate, decisions), torch.randn(2, 35, 8)
    for edge in EDGES:
        logits = stated(edge, tokens, SIZE)
        for _ in range(20):
            assert torch.equal((relaxed_gate_sample(logits) > 0.5).float(), decisions[edge].flatten(1))
        parameters = list(gate.logits['_'.join(map(str, edge))].parameters())
        weights = torch.randn_like(logits)
        gradients = (torch.autograd.grad((x * weights).sum(), parameters) for x in (logits, gate(edge, tokens, SIZE)))
        torch.testing.assert_close(*gradients)
    assert stated.macs([SIZE]) == gate.macs([SIZE]) > 0
    assert stated.learnable
