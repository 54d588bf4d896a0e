import pytest
import torch
import torch.nn.functional as F

from msvit_mm.ops.gating import zero_with_gradient
from msvit_mm.ops.mixed_grid import MixedGrid
from msvit_mm.ops.packing import Packing
from msvit_mm.ops.tiling import Tiling, active_slots, cell_slots, nodes_to_cells, per_scale, token_areas

EXTRA = 2
TILING = Tiling(70, 90, (16, 32))  # 5 x 6 cells in 3 x 3 regions
TREES = [TILING, Tiling(70, 99, (8, 16, 32)), Tiling(100, 130, (16, 32, 64)), Tiling(33, 50, (4, 8, 16, 32))]
every_tiling = pytest.mark.parametrize('tiling', TREES, ids=str)


def random_tree(tiling, batch=2):
    return [(torch.rand(batch, scale.rows, scale.cols) < 0.5).double() for scale in tiling.scales[:-1]]


def with_extra(slots, value):
    return F.pad(slots.flatten(1), (EXTRA, 0), value=value)


def layout_and_table(tiling=TILING):
    """A layout of two images with two class tokens, and distinct values of all candidates, (B, N, C)."""
    decisions = random_tree(tiling)
    active = Packing.select(with_extra(active_slots(decisions, tiling), True))
    maps = decisions[0] if len(decisions) == 1 else decisions
    return MixedGrid(tiling, maps, active), torch.randn(*active.shape, 4, dtype=torch.float64)


def contrasting(layout, values, computed=None):
    """The same layout with gate values by scale; of all regions the other candidates were computed, or of some."""
    tiling, slots = layout.tiling, active_slots(layout.decisions, layout.tiling)
    others = ~slots & (token_areas(tiling) > 0)
    if computed is not None:
        others &= computed.flatten(1).bool().unsqueeze(-1)
    zeros = [zero_with_gradient(x) if computed is None else zero_with_gradient(x) * computed for x in values]
    zeros = zeros[0] if len(zeros) == 1 else zeros
    return MixedGrid(tiling, layout.decisions, layout.active, Packing.select(with_extra(others, False)), zeros)


def candidates(table, b, y, x):
    """The coarse and the fine one of a cell."""
    first = EXTRA + 5 * (y // 2 * 3 + x // 2)
    return table[b, first], table[b, first + 1 + y % 2 * 2 + x % 2]


def test_every_cell_has_what_its_token_has():
    layout, table = layout_and_table()
    assert layout.num_extra_tokens == EXTRA
    first, second = layout.scatter([(layout.active.pack(table), None), (layout.active.pack(-table), None)])
    assert first.shape == (2, 4, 5, 6)
    assert torch.equal(second, -first)
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(6)).tolist():
        coarse, fine = candidates(table, b, y, x)
        assert torch.equal(first[b, :, y, x], coarse if layout.decisions[b, y // 2, x // 2] else fine)


def test_a_gate_value_feels_the_contrast_where_both_scales_are():
    computed = (torch.rand(2, 3, 3) < 0.5).double()
    plain, table = layout_and_table()
    values = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    layout = contrasting(plain, [values], computed)
    (wanted,) = plain.scatter([(plain.active.pack(table), None)])
    (cells,) = layout.scatter([(layout.active.pack(table), layout.counterfactual.pack(table))])
    assert torch.equal(cells, wanted)
    weights = torch.randn_like(cells)
    (gradient,) = torch.autograd.grad((cells * weights).sum(), values)
    expected = torch.zeros_like(gradient)
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(6)).tolist():
        coarse, fine = candidates(table, b, y, x)
        expected[b, y // 2, x // 2] += ((coarse - fine) * weights[b, :, y, x]).sum()
    assert 0 < computed.mean() < 1
    torch.testing.assert_close(gradient, expected * computed, rtol=1e-10, atol=1e-12)


@every_tiling
def test_gradients_are_those_of_the_mix_written_as_a_formula(tiling):
    """What the cells of node v have: V_v = d_v c_v + (1 - d_v) V_children, which autograd differentiates."""
    plain, table = layout_and_table(tiling)
    decisions = [x.clone().requires_grad_() for x in per_scale(plain.decisions)]
    table.requires_grad_()
    *larger, mixed = (table[:, slots + EXTRA] for slots in cell_slots(tiling))  # (B, h, w, C)
    for scale, whole, d in reversed([*zip(tiling.scales, larger, decisions, strict=False)]):
        d = nodes_to_cells(d, tiling, scale.side).unsqueeze(-1)
        mixed = d * whole + (1 - d) * mixed
    weights = torch.randn_like(mixed)
    *wanted, wanted_features = torch.autograd.grad((mixed * weights).sum(), [*decisions, table])

    values = [torch.rand_like(x).requires_grad_() for x in decisions]
    layout = contrasting(plain, values)
    active, others = layout.active.pack(table), layout.counterfactual.pack(table.detach())
    (cells,) = layout.scatter([(active, others)])
    cells = cells.permute(0, 2, 3, 1)
    torch.testing.assert_close(cells, mixed, rtol=1e-12, atol=1e-12)
    *gradients, features = torch.autograd.grad((cells * weights).sum(), [*values, table])
    torch.testing.assert_close(gradients, wanted, rtol=1e-10, atol=1e-12)
    active = with_extra(active_slots(plain.decisions, tiling), False).unsqueeze(-1)
    torch.testing.assert_close(features, wanted_features * active, rtol=1e-10, atol=1e-12)
    assert all((x != 0).double().mean() > 0 for x in gradients)
