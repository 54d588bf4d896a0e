"""The index arithmetic of candidate tokens, each law against the definition spelt out node by node."""

import pytest
import torch
import torch.nn.functional as F

from msvit_mm.ops.packing import Packing
from msvit_mm.ops.tiling import (
    Tiling,
    active_slots,
    cell_slots,
    cell_tokens,
    gather_patches,
    nodes_to_cells,
    nodes_to_slots,
    pad_to_regions,
    per_scale,
    position_table,
    regions_with_boundary,
    shrink,
    split_costs,
    token_areas,
)

TILINGS = [
    Tiling(height, width, patch_sizes)
    for patch_sizes in [(16, 32), (8, 32), (8, 16, 32), (16, 32, 64)]
    for height, width in [(64, 96), (70, 99), (31, 33), (1, 100)]
]
every_tiling = pytest.mark.parametrize('tiling', TILINGS, ids=str)


def random_decisions(tiling, batch=4):
    """Maps of all scales but the smallest, which need not agree: a node may stay whole within one that does."""
    shares = torch.linspace(0, 1, batch)[:, None, None]
    return [(torch.rand(batch, scale.rows, scale.cols) < shares).float() for scale in tiling.scales[:-1]]


def boxes(tiling):
    """(top, left, side) of every candidate token, written down from the definition of the order."""
    region = tiling.region_size
    for row in range(tiling.rows):
        for col in range(tiling.cols):
            for side in sorted(tiling.patch_sizes, reverse=True):
                for y in range(0, region, side):
                    for x in range(0, region, side):
                        yield row * region + y, col * region + x, side


def token_of(maps, sides, top, left):
    """The box that covers a pixel: of the largest node about it that stays whole."""
    for decisions, side in zip(maps, sides, strict=False):
        if decisions[top // side][left // side]:
            break
    else:
        side = sides[-1]
    return top - top % side, left - left % side, side


def test_scales_are_ordered_from_the_largest():
    tiling = Tiling(70, 99, (8, 16, 32))
    assert [(x.side, x.per_side, x.first) for x in tiling.scales] == [(32, 1, 0), (16, 2, 1), (8, 4, 5)]
    assert [(x.rows, x.cols) for x in tiling.scales] == [(3, 4), (5, 7), (9, 13)]
    assert (tiling.slots, tiling.num_regions, tiling.num_cells) == (21, 12, 117)
    assert (tiling.region_size, tiling.patch_size) == (32, 8)


def test_two_scales_have_one_map():
    maps = torch.rand(2, 3, 4)
    assert per_scale(maps)[0] is maps and len(per_scale(maps)) == 1
    assert [x.shape for x in per_scale([maps, maps[:1]])] == [(2, 3, 4), (1, 3, 4)]


@every_tiling
def test_active_tokens_cover_every_pixel_once(tiling):
    decisions = random_decisions(tiling)
    active = active_slots(decisions, tiling)
    areas = token_areas(tiling)
    assert areas.shape == (tiling.num_regions, tiling.slots)
    assert ((areas * active).sum((1, 2)) == tiling.height * tiling.width).all()
    assert not (active & (areas == 0)).any()
    for image_active in active.flatten(1):
        cover = torch.zeros(tiling.height, tiling.width, dtype=torch.long)
        for (top, left, side), is_active in zip(boxes(tiling), image_active, strict=True):
            cover[top : top + side, left : left + side] += int(is_active)
        assert (cover == 1).all()
    if len(decisions) == 1:
        assert torch.equal(active_slots(decisions[0], tiling), active)


@every_tiling
def test_active_tokens_are_those_of_the_tree(tiling):
    """Found from the pixels: the tokens that cover the first pixel of some cell, and no others."""
    decisions = random_decisions(tiling)
    active, candidates, sides = active_slots(decisions, tiling), list(boxes(tiling)), tiling.patch_sizes[::-1]
    for b, image_active in enumerate(active.flatten(1)):
        maps = [x[b].tolist() for x in decisions]
        corners = torch.cartesian_prod(torch.arange(0, tiling.height, 8), torch.arange(0, tiling.width, 8)).tolist()
        wanted = {token_of(maps, sides, *corner) for corner in corners}
        found = [candidates[i] for i in image_active.nonzero().flatten().tolist()]
        assert set(found) == wanted and len(found) == len(wanted)


@every_tiling
def test_areas_of_single_tokens(tiling):
    expected = [
        max(min(top + side, tiling.height) - top, 0) * max(min(left + side, tiling.width) - left, 0)
        for top, left, side in boxes(tiling)
    ]
    assert token_areas(tiling).flatten().tolist() == expected


@every_tiling
def test_splitting_a_node_costs_its_children_less_itself(tiling):
    areas = token_areas(tiling).flatten().tolist()
    inside = [box for box, area in zip(boxes(tiling), areas, strict=True) if area]
    costs = split_costs(tiling)
    assert len(costs) == len(tiling.patch_sizes) - 1
    for cost, parent, child in zip(costs, tiling.scales, tiling.scales[1:], strict=False):
        assert cost.shape == (parent.rows, parent.cols)
        for row in range(parent.rows):
            for col in range(parent.cols):
                children = [
                    (top, left)
                    for top, left, side in inside
                    if side == child.side and (top // parent.side, left // parent.side) == (row, col)
                ]
                assert cost[row, col] == len(children) - 1


@every_tiling
def test_cells_find_their_candidates(tiling):
    found = cell_slots(tiling)
    candidates = list(boxes(tiling))
    assert len(found) == len(tiling.patch_sizes)
    for side, slots in zip(tiling.patch_sizes[::-1], found, strict=True):
        assert slots.shape == (tiling.cell_rows, tiling.cell_cols)
        for y in range(tiling.cell_rows):
            for x in range(tiling.cell_cols):
                top, left = y * tiling.patch_size, x * tiling.patch_size
                assert candidates[slots[y, x]] == (top - top % side, left - left % side, side)
        scale = next(scale for scale in tiling.scales if scale.side == side)
        own = token_areas(tiling) > 0
        own[:, : scale.first] = False
        own[:, scale.first + scale.per_side**2 :] = False
        assert slots.unique().tolist() == own.flatten().nonzero().flatten().tolist()


@every_tiling
def test_cells_are_covered_by_the_active_candidate(tiling):
    decisions = random_decisions(tiling)
    chosen, candidates, sides = cell_tokens(decisions, tiling), list(boxes(tiling)), tiling.patch_sizes[::-1]
    assert chosen.shape == (4, tiling.cell_rows, tiling.cell_cols)
    assert active_slots(decisions, tiling).flatten(1).gather(1, chosen.flatten(1)).all()
    for b in range(4):
        maps = [x[b].tolist() for x in decisions]
        for y in range(tiling.cell_rows):
            for x in range(tiling.cell_cols):
                token = token_of(maps, sides, y * tiling.patch_size, x * tiling.patch_size)
                assert candidates[chosen[b, y, x]] == token


def test_nodes_to_slots_goes_region_by_region():
    nodes = torch.arange(4 * 6).reshape(1, 4, 6)
    expected = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19], [14, 15, 20, 21], [16, 17, 22, 23]]
    assert nodes_to_slots(nodes, 2).tolist() == [expected]
    with_channels = torch.stack([nodes, -nodes], dim=-1)
    assert torch.equal(nodes_to_slots(with_channels, 2)[..., 1], -torch.tensor([expected]))


@every_tiling
def test_cells_take_the_value_of_their_node(tiling):
    for scale in tiling.scales:
        values = torch.rand(2, scale.rows, scale.cols)
        cells = nodes_to_cells(values, tiling, scale.side)
        assert cells.shape == (2, tiling.cell_rows, tiling.cell_cols)
        k = scale.side // tiling.patch_size
        for y in range(tiling.cell_rows):
            for x in range(tiling.cell_cols):
                assert torch.equal(cells[:, y, x], values[:, y // k, x // k])
        if scale.first == 0:
            assert torch.equal(nodes_to_cells(values, tiling), cells)


@every_tiling
def test_padding_adds_zeros_below_and_to_the_right(tiling):
    images, size = torch.rand(2, 3, tiling.height, tiling.width) + 1, tiling.region_size
    padded = pad_to_regions(images, size)
    assert padded.shape == (2, 3, tiling.rows * size, tiling.cols * size)
    assert torch.equal(padded[:, :, : tiling.height, : tiling.width], images)
    assert padded.sum() == pytest.approx(images.sum().item(), rel=1e-5)


def test_shrinking_by_two_is_bilinear_interpolation():
    images = torch.rand(2, 3, 64, 96)
    expected = F.interpolate(images, scale_factor=0.5, mode='bilinear', align_corners=False)
    torch.testing.assert_close(shrink(images, 2), expected)
    assert shrink(images, 1) is images


@pytest.mark.parametrize('factor', [2, 4])
def test_shrinking_keeps_regions_apart_and_uses_all_pixels(factor):
    images = torch.rand(1, 3, 64, 96, requires_grad=True)
    shrunk = shrink(images, factor)
    side = 32 // factor
    shrunk[:, :, :side, side : 2 * side].sum().backward()
    used = images.grad[0].sum(0) > 0
    assert used[:32, 32:64].all()
    assert used.sum() == 32 * 32


@every_tiling
@pytest.mark.parametrize('extra', [0, 1])
def test_patches_are_windows_of_the_image_resized(tiling, extra):
    """Against cropping and resizing candidate by candidate; those of class tokens have no pixels."""
    images = pad_to_regions(torch.rand(2, 3, tiling.height, tiling.width), tiling.region_size)
    chosen = torch.rand(2, extra + tiling.num_regions * tiling.slots) < 0.5
    patches, candidates, p = gather_patches(images, tiling, Packing.select(chosen)), list(boxes(tiling)), 0
    for image, place in chosen.nonzero().tolist():
        if place >= extra:
            top, left, side = candidates[place - extra]
            window = images[image : image + 1, :, top : top + side, left : left + side]
            resized = F.interpolate(window, size=(tiling.patch_size,) * 2, mode='area')[0]
            torch.testing.assert_close(patches[p], resized)
            p += 1
    assert patches.shape == (p, 3, tiling.patch_size, tiling.patch_size)


@every_tiling
def test_the_position_of_a_node_is_the_mean_over_its_cells_inside(tiling):
    positions = torch.randn(1, tiling.num_cells, 5)
    table = position_table(positions, tiling)
    assert table.shape == (1, tiling.num_regions, tiling.slots, 5)
    cells = positions.reshape(tiling.cell_rows, tiling.cell_cols, 5)
    for (top, left, side), position in zip(boxes(tiling), table[0].flatten(0, 1), strict=True):
        y, x, k = (length // tiling.patch_size for length in (top, left, side))
        inside = cells[y : y + k, x : x + k]
        wanted = inside.mean((0, 1)) if inside.numel() else torch.zeros(5)
        if k == 1:
            assert torch.equal(position, wanted)
        torch.testing.assert_close(position, wanted)


@pytest.mark.parametrize('size', [16, 32])
def test_regions_with_boundary(labels, size):
    expected = [
        [
            len(set(labels[y : y + size, x : x + size].flatten().tolist()) - {255}) > 1
            for x in range(0, labels.shape[1], size)
        ]
        for y in range(0, labels.shape[0], size)
    ]
    assert regions_with_boundary(labels, size).tolist() == expected


def test_regions_ignore_another_label():
    labels = torch.zeros(16, 32, dtype=torch.long)
    labels[:, 20:] = 7
    assert regions_with_boundary(labels, 16).tolist() == [[False, True]]
    assert regions_with_boundary(labels, 16, ignore_index=7).tolist() == [[False, False]]


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        ((0, 32, (16, 32)), r'at least one pixel, got \(height, width\) \(0, 32\)'),
        ((32, 32, (16, 40)), r'at least two, each a larger multiple of the one before, got \(16, 40\)'),
        ((32, 32, (16, 16)), r'each a larger multiple of the one before, got \(16, 16\)'),
        ((32, 32, (8, 16, 40)), r'each a larger multiple of the one before, got \(8, 16, 40\)'),
        ((32, 32, (32, 16, 8)), r'each a larger multiple of the one before, got \(32, 16, 8\)'),
        ((32, 32, (16,)), r'at least two, .* got \(16,\)'),
    ],
)
def test_impossible_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        Tiling(*sizes)
