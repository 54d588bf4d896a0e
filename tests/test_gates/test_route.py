import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from msvit_mm.gates import TokenGate, build_gate
from msvit_mm.ops.macs import count_macs

EDGES = {('row', 0, 0): 8, ('row', 1, 1): 16, ('row', 0, 1): 8, ('merge', 0, 2): 8}


def test_merge_logit_is_the_mean_over_its_sources():
    gate = MODELS.build(dict(type='RouteGate', edges={('merge', 0, 2): 8, ('row', 0, 2): 8}))
    nn.init.normal_(gate.logits['merge_0_2'][1].weight)
    gate.logits['row_0_2'] = gate.logits['merge_0_2']
    tokens = torch.randn(2, 15, 8)
    per_source = gate(('row', 0, 2), tokens, (3, 5)).view(2, 3, 5)
    per_token = gate(('merge', 0, 2), tokens, (3, 5)).view(2, 2, 3)
    torch.testing.assert_close(per_token[:, 0, 0], per_source[:, :2, :2].mean((1, 2)))
    torch.testing.assert_close(per_token[:, 1, 2], per_source[:, 2, 4])


@pytest.mark.parametrize('kind', ['row', 'merge'])
def test_logits_of_all_edges_at_once(kind, perturb):
    edges = {(kind, 0, stage): 8 for stage in range(3)}
    gate, tokens = perturb(MODELS.build(dict(type='RouteGate', edges=edges))), torch.randn(2, 15, 8)
    wanted = torch.stack([gate(edge, tokens, (3, 5)) for edge in edges])
    assert wanted.std(0).min() > 1e-3  # each has its own
    torch.testing.assert_close(gate.forward_all([*edges], tokens, (3, 5)), wanted)
    assert count_macs(gate.forward_all, [*edges], tokens, (3, 5)) == 3 * count_macs(gate, (kind, 0, 0), tokens, (3, 5))


def test_random_routes_have_their_share():
    tokens = torch.zeros(200, 40, 8)
    gate = build_gate(dict(type='RandomRoutes', active_ratio=0.3), TokenGate, edges=EDGES)
    shares = (gate(('row', 0, 0), tokens, (5, 8)) > 0).float().mean(1)
    assert abs(shares.mean() - 0.3) < 0.02
    gate = build_gate(dict(type='RandomRoutes', active_ratio=(0.0, 1.0)), TokenGate, edges=EDGES)
    wide = (gate(('row', 0, 0), tokens, (5, 8)) > 0).float().mean(1)
    assert wide.std() > 2 * shares.std() and abs(wide.mean() - 0.5) < 0.1
    assert not gate.learnable


def test_shuffled_routes_open_as_many_tokens_elsewhere():
    learned = build_gate(dict(type='RouteGate', initial_ratio=0.5), TokenGate, edges=EDGES)
    shuffled = build_gate(dict(type='ShuffledRoutes', gate=learned), TokenGate, edges=EDGES)
    tokens = torch.randn(3, 400, 8)
    wanted, got = (gate(('row', 0, 0), tokens, (20, 20)) for gate in (learned, shuffled))
    assert (got.sort(1).values == wanted.sort(1).values).all()
    moved = ((got > 0) != (wanted > 0)).float().mean(1)
    assert ((moved > 0.3) & (moved < 0.7)).all()  # half, where chance alone decides
    assert all(shuffled.macs_per_token(edge) == learned.macs_per_token(edge) > 0 for edge in EDGES)


def test_fixed_routes():
    tokens = torch.zeros(2, 12, 8)
    wanted = dict(open=[1, 1, 1, 1], closed=[0, 0, 0, 0], staircase=[1, 1, 0, 0])
    for routes, decisions in wanted.items():
        gate = build_gate(dict(type='FixedRoutes', routes=routes), TokenGate, edges=EDGES)
        logits = [gate(edge, tokens, (3, 4)) for edge in EDGES]
        assert [int((x > 0).all()) for x in logits] == decisions
        assert [x.shape[1] for x in logits] == [12, 12, 12, 4]


def test_start_and_freezing_of_the_learned_gate():
    gate = build_gate(dict(type='RouteGate', initial_ratio=0.8), TokenGate, edges=EDGES)
    shares = gate(('row', 1, 1), torch.randn(2, 12, 16), (3, 4)).sigmoid()
    assert (shares - 0.8).abs().max() < 0.05
    assert gate.learnable and not build_gate(dict(type='RouteGate', frozen=True), TokenGate, edges=EDGES).learnable


def test_macs_are_what_all_edges_dispatch():
    gate = build_gate(dict(type='RouteGate'), TokenGate, edges=EDGES)
    sizes = [(6, 10), (3, 5)]
    tokens = [torch.randn(1, 60, 8), torch.randn(1, 15, 16)]
    dispatched = sum(count_macs(gate, edge, tokens[edge[1]], sizes[edge[1]]) for edge in EDGES)
    assert gate.macs(sizes) == dispatched > 0
    assert build_gate(dict(type='FixedRoutes'), TokenGate, edges=EDGES).macs(sizes) == 0


def test_a_gate_of_another_family_is_refused():
    with pytest.raises(
        ValueError, match='one of FixedRoutes, RandomRoutes, RouteGate, ShuffledRoutes, got .*ScaleGate'
    ):
        build_gate(dict(type='ScaleGate'), TokenGate, edges=EDGES)
