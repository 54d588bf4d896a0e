"""Coarse pixels and cell detail: nothing at the start, only where a region is coarse, from its own pixels alone."""

import pytest
import torch
from mmengine.registry import MODELS

from msvit_mm.backbones.coarse import gather_cells, gather_nodes
from msvit_mm.ops.tiling import Tiling, pad_to_regions

PARTS = dict(coarse_embedding='own', detail=dict(hidden_dims=8, levels=(0, 1)))


@pytest.fixture
def build(tiny_arch):
    """A tiny MSViT of two levels in double precision, with the parts or without, of one seed."""

    def make(**words):
        torch.manual_seed(0)
        gate = dict(type='ScaleGate', initial_ratio=0.5)
        config = dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), gate=gate, out_indices=[0, 1])
        return MODELS.build(config | words).double().eval()

    return make


def test_regions_and_cells_are_those_of_the_padded_image():
    images, tiling = torch.randn(2, 3, 40, 70), Tiling(40, 70, (16, 32))
    places = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0]), torch.tensor([2, 0, 2])
    padded = pad_to_regions(images, 32)
    regions, cells = gather_nodes(images, tiling, 32, *places), gather_cells(images, tiling, 32, *places)
    for n, (b, y, x) in enumerate(zip(*map(torch.Tensor.tolist, places), strict=True)):
        wanted = padded[b, :, 32 * y : 32 * y + 32, 32 * x : 32 * x + 32]
        assert torch.equal(regions[n], wanted)
        for c in range(4):
            i, j = divmod(c, 2)
            assert torch.equal(cells[n, c], wanted[:, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16].flatten())


@pytest.mark.parametrize('scales', [{}, dict(patch_sizes=(8, 16, 32))])
def test_a_fresh_network_is_the_one_without_the_parts(build, scales):
    plain, own = build(**scales), build(**scales, **PARTS)
    missing, unexpected = own.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and {name.partition('.')[0] for name in missing} == {'coarse_pixels', 'detail'}
    images = torch.randn(2, 3, 70, 90, dtype=torch.float64)
    decisions = plain.random_decisions(0.5, images)
    for actual, wanted in zip(own(images, decisions), plain(images, decisions), strict=True):
        assert torch.equal(actual, wanted)


def test_of_three_scales_they_act_on_nodes_that_stay_whole(build, perturb):
    """Each scale by its own weights: without those of the regions, nodes within them have theirs, and the reverse."""
    images, split = torch.randn(1, 3, 64, 96, dtype=torch.float64), torch.zeros(1, 2, 3)
    nodes = torch.zeros(1, 4, 6)
    nodes[:, :2, :2] = 1  # within the first region
    changed = []
    for scale in range(2):
        own, plain = build(patch_sizes=(8, 16, 32), **PARTS), build(patch_sizes=(8, 16, 32))
        perturb(own.detail[scale])
        plain.load_state_dict(own.state_dict(), strict=False)
        for regions in (split, 1 - split):
            pair = own(images, (regions, nodes))[0], plain(images, (regions, nodes))[0]
            changed.append((pair[0] - pair[1]).abs().sum(1)[0] > 1e-9)
    large_split, large_whole, small_split, small_whole = changed
    assert not large_split.any() and large_whole.all() and not small_whole.any()
    assert small_split[:4, :4].all() and small_split.sum() == 16


def test_they_act_on_coarse_regions_alone(build, perturb):
    own = build(**PARTS)
    perturb(own.coarse_pixels)
    perturb(own.detail)
    plain = build()
    plain.load_state_dict(own.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    fine, coarse = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    assert all(torch.equal(x, y) for x, y in zip(own(images, fine), plain(images, fine), strict=True))
    changed = (own(images, coarse)[0] - plain(images, coarse)[0]).abs().sum(1)
    assert (changed > 1e-6).all()


def test_the_first_level_alone_has_detail_if_asked(build, perturb):
    own = build(detail=dict(hidden_dims=8, levels=(0,)))
    perturb(own.detail)
    first, second = own(torch.randn(1, 3, 64, 96, dtype=torch.float64), torch.ones(1, 2, 3))
    assert (first[..., 0, 0] - first[..., 1, 1]).abs().sum() > 1e-3
    assert torch.equal(second[..., 0, 0], second[..., 1, 1])


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(coarse_embedding='shard'), "coarse_embedding must be one of 'shared', 'own', got 'shard'"),
        (dict(detail=dict(levels=(0, 2))), r'wanted levels among the 2 maps .*got levels \(0, 2\)'),
        (dict(detail=dict(levels=(0,)), out_type='tokens'), "detail: wanted levels .*got levels .*'tokens'"),
    ],
)
def test_bad_input(build, words, message):
    with pytest.raises(ValueError, match=message):
        build(**words)
