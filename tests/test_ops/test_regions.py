import pytest
import torch

from msvit_mm.ops.regions import (
    RegionGrid,
    active_slots,
    cell_slots,
    cells_to_slots,
    pad_to_regions,
    regions_to_cells,
    token_areas,
)

GRIDS = [
    RegionGrid(height, width, patch_size, 32)
    for height, width in [(64, 96), (70, 99), (31, 33), (1, 100)]
    for patch_size in (16, 8)
]


def random_decisions(grid, batch=4):
    return (torch.rand(batch, grid.rows, grid.cols) < torch.linspace(0, 1, batch)[:, None, None]).float()


def boxes(grid):
    """(top, left, side) of every candidate token, written down from the definition of the order."""
    for row in range(grid.rows):
        for col in range(grid.cols):
            top, left = row * grid.coarse_patch_size, col * grid.coarse_patch_size
            yield top, left, grid.coarse_patch_size
            for y in range(grid.scale):
                for x in range(grid.scale):
                    yield top + y * grid.patch_size, left + x * grid.patch_size, grid.patch_size


@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_active_tokens_cover_every_pixel_once(grid):
    decisions = random_decisions(grid)
    active = active_slots(decisions, grid)
    areas = token_areas(grid)
    assert ((areas * active).sum((1, 2)) == grid.height * grid.width).all()
    assert not (active & (areas == 0)).any()
    for image_active in active.flatten(1):
        cover = torch.zeros(grid.height, grid.width, dtype=torch.long)
        for (top, left, side), is_active in zip(boxes(grid), image_active, strict=True):
            cover[top : top + side, left : left + side] += int(is_active)
        assert (cover == 1).all()


@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_areas_of_single_tokens(grid):
    expected = [
        max(min(top + side, grid.height) - top, 0) * max(min(left + side, grid.width) - left, 0)
        for top, left, side in boxes(grid)
    ]
    assert token_areas(grid).flatten().tolist() == expected


@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_cells_find_their_candidates(grid):
    coarse, fine = cell_slots(grid)
    candidates = list(boxes(grid))
    assert coarse.shape == fine.shape == (grid.cell_rows, grid.cell_cols)
    for y in range(grid.cell_rows):
        for x in range(grid.cell_cols):
            top, left = y * grid.patch_size, x * grid.patch_size
            assert candidates[fine[y, x]] == (top, left, grid.patch_size)
            region = (top - top % grid.coarse_patch_size, left - left % grid.coarse_patch_size)
            assert candidates[coarse[y, x]] == (*region, grid.coarse_patch_size)
    inside = token_areas(grid) > 0
    inside[:, 0] = False
    assert fine.flatten().sort().values.tolist() == inside.flatten().nonzero().flatten().tolist()


def test_cells_to_slots_goes_region_by_region():
    cells = torch.arange(4 * 6).reshape(1, 4, 6)
    expected = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19], [14, 15, 20, 21], [16, 17, 22, 23]]
    assert cells_to_slots(cells, 2).tolist() == [expected]
    with_channels = torch.stack([cells, -cells], dim=-1)
    assert torch.equal(cells_to_slots(with_channels, 2)[..., 1], -torch.tensor([expected]))


@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_cells_take_the_value_of_their_region(grid):
    values = torch.rand(2, grid.rows, grid.cols)
    cells = regions_to_cells(values, grid)
    assert cells.shape == (2, grid.cell_rows, grid.cell_cols)
    for y in range(grid.cell_rows):
        for x in range(grid.cell_cols):
            assert torch.equal(cells[:, y, x], values[:, y // grid.scale, x // grid.scale])


@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_padding_adds_zeros_below_and_to_the_right(grid):
    images = torch.rand(2, 3, grid.height, grid.width) + 1
    padded = pad_to_regions(images, coarse_patch_size=32)
    assert padded.shape == (2, 3, grid.rows * 32, grid.cols * 32)
    assert torch.equal(padded[:, :, : grid.height, : grid.width], images)
    assert padded.sum() == pytest.approx(images.sum().item(), rel=1e-5)


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        ((0, 32, 16, 32), r'at least one pixel, got \(height, width\) \(0, 32\)'),
        ((32, 32, 16, 40), 'larger multiple of patch_size 16, got 40'),
        ((32, 32, 16, 16), 'larger multiple of patch_size 16, got 16'),
    ],
)
def test_impossible_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        RegionGrid(*sizes)
