"""Positions of grids that are not square: stated in what is saved, resized right, and never guessed."""

import pytest
import torch
from mmengine.registry import MODELS

from msvit_mm.backbones.embedding import source_grid
from msvit_mm.checkpoints import carry_metadata, load_checkpoint_safely
from msvit_mm.checkpoints.publish import strip_checkpoint
from msvit_mm.checkpoints.starting import weights_below


@pytest.fixture
def make(tiny_arch, perturb):
    def make(size, **words):
        return perturb(MODELS.build(dict(type='MSViT', arch=tiny_arch, img_size=size, **words)))

    return make


SIZES = [((64, 256), (128, 128)), ((64, 96), (128, 192)), ((96, 96), (64, 96)), ((32, 512), (96, 80))]


@pytest.mark.parametrize('sizes', SIZES)
def test_a_stated_grid_is_resized_as_it_lies(make, sizes, tmp_path):
    source, target = (make(size) for size in sizes)
    grids = [(height // 16, width // 16) for height, width in sizes]
    wanted = target.resize_pos_embed(source.pos_embed, *grids, target.interpolate_mode, 1)
    model = torch.nn.ModuleDict(dict(backbone=source))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'a.pth')
    checkpoint = load_checkpoint_safely(tmp_path / 'a.pth')
    torch.save(strip_checkpoint(checkpoint, {}), tmp_path / 'published.pth')
    for loaded in (checkpoint, load_checkpoint_safely(tmp_path / 'published.pth')):
        target.load_state_dict(weights_below(loaded, 'backbone'))
        assert torch.equal(target.pos_embed, wanted)
        state = carry_metadata(dict(loaded['state_dict']), loaded['state_dict'])
        torch.nn.ModuleDict(dict(backbone=target)).load_state_dict(state)
        assert torch.equal(target.pos_embed, wanted)


def test_a_class_token_s_position_is_left_out(make):
    source = make((64, 96))
    state = source.state_dict()
    for kept in (state, dict(state)):
        target = make((64, 96), with_cls_token=False)
        target.load_state_dict(kept, strict=False)
        assert torch.equal(target.pos_embed, source.pos_embed[:, 1:])


@pytest.mark.parametrize(
    ('count', 'own', 'stated', 'grid'),
    [
        (24, (4, 6), None, (4, 6)),
        (96, (4, 6), None, (8, 12)),
        (196, (4, 6), None, (14, 14)),
        (64, (8, 8), None, (8, 8)),
        (64, (8, 8), (4, 16), (4, 16)),
        (64, (4, 16), (8, 8), (8, 8)),
    ],
)
def test_source_grid(count, own, stated, grid):
    assert source_grid(count, own, stated) == grid


@pytest.mark.parametrize(
    ('count', 'own', 'stated', 'message'),
    [
        (64, (4, 16), None, 'got 4 x 16 or 8 x 8; .*--source-grid'),
        (256, (4, 16), None, 'got 8 x 32 or 16 x 16'),
        (23, (4, 6), None, 'got 23, which are no square either'),
        (0, (4, 6), None, 'got '),
        (24, (4, 6), (5, 5), 'wanted 5 x 5 positions, as stated, got 24'),
    ],
)
def test_no_grid_is_guessed(count, own, stated, message):
    with pytest.raises(ValueError, match=message):
        source_grid(count, own, stated)
