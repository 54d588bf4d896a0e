"""Positions of grids that are not square: stated in what is saved, resized right, and never guessed."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader

from msvit_mm.backbones.embedding import source_grid
from msvit_mm.checkpoints import (
    carry_metadata,
    fit_weights,
    load_checkpoint_safely,
    load_weights_safely,
    rename_keys,
    use_safe_loader,
)
from msvit_mm.checkpoints.kept import kept_grids
from msvit_mm.checkpoints.publish import strip_checkpoint
from msvit_mm.checkpoints.starting import adopt_weights, weights_below

ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


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


@pytest.fixture
def of_a_host(perturb, tmp_path):
    """A checkpoint as mmseg saves it: positions of 4 x 16 cells, of which only the kept config tells."""
    words = dict(arch=ARCH, img_size=(64, 256), patch_size=16, out_type='featmap')
    host = perturb(MODELS.build(dict(type='mmpretrain.VisionTransformer', **words)))
    cfg = Config(dict(model=dict(type='EncoderDecoder', backbone=dict(type='mmpretrain.VisionTransformer', **words))))
    weights = {f'backbone.{key}': tensor for key, tensor in host.state_dict().items()}
    torch.save(dict(state_dict=weights, meta=dict(cfg=cfg.pretty_text)), tmp_path / 'host.pth')
    return tmp_path / 'host.pth', host.pos_embed


def test_the_grid_of_a_foreign_checkpoint_is_that_of_its_kept_config(of_a_host):
    path, positions = of_a_host
    target = MODELS.build(dict(type='MSViT', arch=ARCH, img_size=(128, 128)))
    wanted = target.resize_pos_embed(positions, (4, 16), (8, 8), target.interpolate_mode, 1)
    use_safe_loader()
    for load in (load_checkpoint_safely, CheckpointLoader.load_checkpoint):
        torch.nn.init.zeros_(target.pos_embed)
        target.load_state_dict(weights_below(load(str(path)), 'backbone'), strict=False)
        assert torch.equal(target.pos_embed, wanted)
    weights, entry = load_weights_safely(path)
    conversion = rename_keys(weights)
    assert (entry, conversion.grid) == ('state_dict', (4, 16))
    fit_weights(conversion, target, (8, 8))
    torch.testing.assert_close(conversion.state_dict['pos_embed'], wanted)


@pytest.mark.parametrize(
    'cfg', [None, 3, 'model = os.system', 'model = 3', 'model = dict(backbone=dict(img_size="a"))', 'a' * 10**6]
)
def test_odd_kept_configs_say_nothing_of_grids(cfg):
    weights = {'backbone.pos_embed': torch.zeros(1, 65, 8), 3: None}
    assert kept_grids(weights, dict(cfg=cfg)) == {}
    large = 'model = dict(backbone=dict(img_size=512))'
    assert kept_grids(weights, dict(cfg=large)) == {}  # of another number of positions


def test_a_host_s_segmentor_is_adopted_as_its_grid_lies(perturb, tmp_path):
    """mmseg's own transformer, whose 64 positions are 4 x 16 or 8 x 8, into a network of 4 x 16 and one of 8 x 8."""
    words = dict(img_size=(64, 256), embed_dims=32, num_layers=1, num_heads=2, mlp_ratio=2, final_norm=True)
    host = perturb(MODELS.build(dict(type='mmseg.VisionTransformer', **words)))
    cfg = Config(dict(model=dict(type='EncoderDecoder', backbone=dict(type='mmseg.VisionTransformer', **words))))
    weights = {f'backbone.{key}': tensor for key, tensor in host.state_dict().items()}
    torch.save(dict(state_dict=weights, meta=dict(cfg=cfg.pretty_text)), tmp_path / 'host.pth')
    loaded = load_checkpoint_safely(tmp_path / 'host.pth')['state_dict']
    for size, grid in (((64, 256), (4, 16)), ((128, 128), (8, 8))):
        arch = ARCH | dict(num_layers=1)
        model = torch.nn.Module()
        model.backbone = target = MODELS.build(dict(type='MSViT', arch=arch, img_size=size))
        model.load_state_dict(adopt_weights(model, loaded), strict=False)
        torch.testing.assert_close(
            target.pos_embed, target.resize_pos_embed(host.pos_embed, (4, 16), grid, target.interpolate_mode, 1)
        )
