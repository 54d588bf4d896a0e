import torch

from msvit_mm.ops.mixed_grid import MixedGrid
from msvit_mm.ops.packing import Packing
from msvit_mm.ops.regions import RegionGrid, active_slots

GRID = RegionGrid(height=70, width=90, patch_size=16, coarse_patch_size=32)  # 5 x 6 cells in 3 x 3 regions
EXTRA = 2


def layout_and_table(others_of=None):
    """A layout of two images with two class tokens, and distinct values of all candidates, (B, N, C)."""
    decisions = (torch.rand(2, 3, 3) < 0.5).double()
    slots = active_slots(decisions, GRID)
    active = torch.nn.functional.pad(slots.flatten(1), (EXTRA, 0), value=True)
    table = torch.randn(*active.shape, 4, dtype=torch.float64)
    others, pull = None, None
    if others_of is not None:
        inside = active_slots(torch.zeros_like(decisions), GRID) | active_slots(torch.ones_like(decisions), GRID)
        computed = ~slots & inside & others_of.flatten(1).bool().unsqueeze(-1)
        others = Packing.select(torch.nn.functional.pad(computed.flatten(1), (EXTRA, 0)))
        values = torch.zeros_like(decisions, requires_grad=True)
        pull = values * others_of
        return MixedGrid(GRID, decisions, Packing.select(active), others, pull), table, values
    return MixedGrid(GRID, decisions, Packing.select(active)), table


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


def test_the_pull_feels_the_contrast_where_both_scales_are():
    computed = (torch.rand(2, 3, 3) < 0.5).double()
    layout, table, values = layout_and_table(computed)
    (plain,) = MixedGrid(GRID, layout.decisions, layout.active).scatter([(layout.active.pack(table), None)])
    (cells,) = layout.scatter([(layout.active.pack(table), layout.others.pack(table))])
    assert torch.equal(cells, plain)
    weights = torch.randn_like(cells)
    (gradient,) = torch.autograd.grad((cells * weights).sum(), values)
    expected = torch.zeros_like(gradient)
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(6)).tolist():
        coarse, fine = candidates(table, b, y, x)
        expected[b, y // 2, x // 2] += ((coarse - fine) * weights[b, :, y, x]).sum()
    assert 0 < computed.mean() < 1
    torch.testing.assert_close(gradient, expected * computed, rtol=1e-10, atol=1e-12)
