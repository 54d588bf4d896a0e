import pytest
import torch
import torch.nn.functional as F

from msvit_mm.ops.packing import Packing
from msvit_mm.ops.regions import RegionGrid, cell_slots
from msvit_mm.ops.resample import gather_patches, mixed_position_table, shrink_regions, stack_slots


def test_shrinking_by_two_is_bilinear_interpolation():
    images = torch.rand(2, 3, 64, 96)
    expected = F.interpolate(images, scale_factor=0.5, mode='bilinear', align_corners=False)
    torch.testing.assert_close(shrink_regions(images, 2), expected)


@pytest.mark.parametrize('scale', [2, 4])
def test_shrinking_keeps_regions_apart_and_uses_all_pixels(scale):
    images = torch.rand(1, 3, 64, 96, requires_grad=True)
    shrunk = shrink_regions(images, scale)
    side = 32 // scale
    shrunk[:, :, :side, side : 2 * side].sum().backward()
    used = images.grad[0].sum(0) > 0
    assert used[:32, 32:64].all()
    assert used.sum() == 32 * 32


@pytest.mark.parametrize('patch_size', [16, 8])
def test_patches_are_windows_of_the_image_and_of_the_shrunk_one(patch_size):
    grid = RegionGrid(64, 96, patch_size, 32)
    images = torch.rand(2, 3, 64, 96)
    chosen = torch.rand(2, 1 + grid.num_regions * grid.slots) < 0.7  # a class token first
    shrunk = shrink_regions(images, grid.scale)
    candidates = [(image, place - 1) for image, place in chosen.nonzero().tolist() if place > 0]
    patches = gather_patches(images, grid, Packing.select(chosen))
    for (image, place), patch in zip(candidates, patches, strict=True):
        region, slot = divmod(place, grid.slots)
        row, col = divmod(region, grid.cols)
        source = shrunk[image] if slot == 0 else images[image]
        if slot > 0:
            dy, dx = divmod(slot - 1, grid.scale)
            row, col = row * grid.scale + dy, col * grid.scale + dx
        top, left = row * patch_size, col * patch_size
        assert torch.equal(patch, source[:, top : top + patch_size, left : left + patch_size])


@pytest.mark.parametrize('patch_size', [16, 8])
@pytest.mark.parametrize(('height', 'width'), [(64, 96), (70, 90), (16, 33)])
def test_a_coarse_position_is_the_mean_over_its_cells_inside(height, width, patch_size):
    grid = RegionGrid(height, width, patch_size, 32)
    positions = torch.randn(1, grid.num_cells, 5)
    table = mixed_position_table(positions, grid)
    assert table.shape == (1, grid.num_regions, grid.slots, 5)
    cells = positions.reshape(grid.cell_rows, grid.cell_cols, 5)
    for region in range(grid.num_regions):
        row, col = divmod(region, grid.cols)
        inside = cells[row * grid.scale : (row + 1) * grid.scale, col * grid.scale : (col + 1) * grid.scale]
        torch.testing.assert_close(table[0, region, 0], inside.mean((0, 1)))
    _, fine = cell_slots(grid)
    assert torch.equal(table[0].flatten(0, 1)[fine], cells)
    outside = torch.ones(grid.num_regions, grid.slots, dtype=torch.bool)
    outside.view(-1)[fine.flatten()] = False
    outside[:, 0] = False
    assert not table[0][outside].any()


def test_slot_0_is_the_coarse_one():
    coarse, fine = torch.rand(2, 3, 5), torch.rand(2, 3, 4, 5)
    slots = stack_slots(coarse, fine)
    assert torch.equal(slots[:, :, 0], coarse)
    assert torch.equal(slots[:, :, 1:], fine)
