"""The command that converts weights: what it writes, and that it writes nothing when it fails."""

import os
from argparse import Namespace
from functools import partial

import pytest
import torch
from mmengine.registry import MODELS
from safetensors.torch import save_file
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from msvit_mm.checkpoints import load_checkpoint_safely

CONFIG = """
custom_imports = dict(imports=['msvit_mm'], allow_failed_imports=False)
arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
model = dict(
    type='GatedEncoderDecoder',
    backbone=dict(
        type='MSViT', arch=arch, img_size=(64, 96), init_cfg=dict(type='Pretrained', checkpoint='absent.pth')
    ),
)
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / 'config.py').write_text(CONFIG)
    return tmp_path / 'config.py'


@pytest.fixture(scope='module')
def weights():
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2).state_dict()


@pytest.fixture
def convert(run):
    return partial(run, 'convert-checkpoint')


@pytest.fixture
def check_fails(fail, tmp_path):
    """Run the command and check that it ends with one line and writes nothing."""

    def check(message, source, *options):
        target = tmp_path / 'out.pth'
        assert message in fail('convert-checkpoint', tmp_path / source, target, *options)
        assert not target.exists()
        assert not list(tmp_path.glob('*.part'))

    return check


def test_output_loads_by_init_cfg(convert, tmp_path, weights, config):
    source, target = tmp_path / 'timm.safetensors', tmp_path / 'new' / 'msvit.pth'
    save_file(weights, source)
    assert 'resampled   pos_embed, 2 x 2 to 4 x 6 cells' in convert(source, target, '--config', config)
    assert [path.name for path in target.parent.iterdir()] == ['msvit.pth']

    checkpoint = load_checkpoint_safely(target)
    meta = checkpoint['meta']
    assert meta['source'] == 'timm.safetensors' and meta['family'] == 'timm'
    assert meta['report']['dropped'] == {'head.weight': 'a head', 'head.bias': 'a head'}
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    init_cfg = dict(type='Pretrained', checkpoint=str(target))
    model = MODELS.build(dict(type='MSViT', arch=arch, img_size=(64, 96), init_cfg=init_cfg))
    model.init_weights()
    loaded = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith('gate.')}
    assert loaded.keys() == checkpoint['state_dict'].keys() == set(meta['report']['renamed'].values())
    assert all(torch.equal(tensor, checkpoint['state_dict'][key]) for key, tensor in loaded.items())
    assert torch.equal(model.layers[1].attn.qkv.weight, weights['blocks.1.attn.qkv.weight'])


def test_existing_output(convert, tmp_path, weights, config):
    source, target = tmp_path / 'timm.pth', tmp_path / 'msvit.pth'
    torch.save(weights, source)
    target.write_bytes(b'old')
    with pytest.raises(SystemExit, match='wanted a new file, got an existing one; --overwrite replaces a file'):
        convert(source, target, '--config', config)
    with pytest.raises(SystemExit, match='wanted a file, got none'):
        convert(tmp_path / 'absent.pth', target, '--config', config, '--overwrite')
    assert target.read_bytes() == b'old'
    convert(source, target, '--config', config, '--overwrite')
    assert load_checkpoint_safely(target)['state_dict']
    with pytest.raises(SystemExit, match='wanted a new file'):
        convert(source, tmp_path, '--config', config, '--overwrite')


def test_backbone_from_the_weights(convert, tmp_path):
    words = dict(img_size=28, patch_size=14, embed_dim=192, num_heads=3, init_values=1e-5, num_classes=0)
    timm = VisionTransformer(**words)
    source, target = tmp_path / 'dinov2.pth', tmp_path / 'msvit.pth'
    torch.save({'teacher': {f'backbone.{key}': tensor for key, tensor in timm.state_dict().items()}}, source)
    printed = convert(source, target, '--arch', 'deit-tiny', '--img-size', 64)
    for line in (
        "entry 'teacher'",
        'resampled   pos_embed, 2 x 2 to 4 x 4 cells',
        'resampled   patch_embed.projection.weight, 14 x 14 to 16 x 16 pixels',
        "backbone    {'type': 'MSViT', 'arch': 'deit-tiny', 'img_size': [64, 64], 'patch_size': 16, 'layer_scale",
    ):
        assert line in printed
    gamma = load_checkpoint_safely(target)['state_dict']['layers.11.ffn.gamma2.weight']
    assert torch.equal(gamma, timm.blocks[11].ls2.gamma)

    printed = convert(source, target, '--patch-size', 14, '--overwrite')
    assert 'resampled   none' in printed
    assert "'img_size': (28, 28), 'patch_size': 14" in printed
    assert "'coarse_patch_size': 28, 'gate': {'type': 'ScaleGate', 'sample_size': 14}" in printed

    printed = convert(source, target, '--img-size', 64, '--patch-sizes', 8, 16, 32, '--overwrite')
    assert '14 x 14 to 8 x 8 pixels' in printed and "'patch_sizes': [8, 16, 32]" in printed
    with pytest.raises(SystemExit, match='--patch-sizes: wanted no further patch size beside, got some'):
        convert(source, target, '--patch-size', 16, '--patch-sizes', 8, 16, 32, '--overwrite')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (lambda w: w | {'blocks.0.attn.rel_pos': torch.zeros(1)}, 'no rule of timm explains 1 of'),
        (lambda w: {k: t for k, t in w.items() if '.1.norm2' not in k}, '2 missing: layers.1.ln2.weight'),
        (lambda w: dict(model=w, args=Namespace(lr=1)), 'got argparse.Namespace; refused, since loading it could run'),
        (lambda w: dict(model=w, hook=os.getcwd), 'refused, since loading it could run code'),
        (lambda w: dict(epoch=1), 'wanted weights by name, got the keys epoch'),
    ],
)
def test_bad_file(check_fails, tmp_path, weights, config, content, message):
    torch.save(content(weights), tmp_path / 'bad.pth')
    check_fails(message, 'bad.pth', '--config', config)


def test_truncated_file(check_fails, tmp_path, weights):
    torch.save(weights, tmp_path / 'bad.pth')
    content = (tmp_path / 'bad.pth').read_bytes()
    (tmp_path / 'bad.pth').write_bytes(content[: len(content) // 2])
    check_fails('bytes that are truncated, corrupt', 'bad.pth')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--config', 'absent.py'), "config 'absent.py': wanted a file or a config of msvit_mm, got neither"),
        (('--arch', 'deit-huge'), 'arch must be one of'),
        (('--img-size', '1', '2', '3'), '--img-size: wanted H or H W, got [1, 2, 3]'),
        ((), 'wanted the sizes of a named architecture'),
    ],
)
def test_bad_options(check_fails, tmp_path, weights, options, message):
    torch.save(weights, tmp_path / 'good.pth')
    check_fails(message, 'good.pth', *options)


def test_config_without_msvit(check_fails, tmp_path, weights, toy_config):
    torch.save(weights, tmp_path / 'good.pth')
    message = 'wanted a model.backbone of type MSViT, got mmpretrain.VisionTransformer'
    check_fails(message, 'good.pth', '--config', toy_config)


def test_pvt_becomes_a_router(convert, tmp_path):
    torch.manual_seed(0)
    weights = PyramidVisionTransformerV2(
        embed_dims=(8, 16, 40, 64), depths=(1, 1, 1, 1), num_heads=(1, 2, 5, 8), mlp_ratios=(2, 2, 2, 2)
    ).state_dict()
    source, target = tmp_path / 'pvt.pth', tmp_path / 'dit.pth'
    torch.save(weights, source)
    printed = convert(source, target, '--img-size', 96)
    assert "'type': 'DynamicTokenRoutingTransformer'" in printed and 'family      timm PVTv2' in printed
    arch = dict(embed_dims=(8, 16, 40, 64), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2))
    init_cfg = dict(type='Pretrained', checkpoint=str(target))
    model = MODELS.build(dict(type='DynamicTokenRoutingTransformer', arch=arch, init='pvtv2', init_cfg=init_cfg))
    model.init_weights()
    assert torch.equal(model.nodes['2_2'][0].attn.kv.weight, weights['stages.2.blocks.0.attn.kv.weight'])
    assert not model.nodes['2_3'][0].attn.proj.weight.any()
    with pytest.raises(SystemExit, match='weights of timm PVTv2: wanted no patch sizes, got some'):
        convert(source, tmp_path / 'other.pth', '--patch-size', 8)
    with pytest.raises(SystemExit, match='wanted weights with position embeddings, got timm PVTv2 without'):
        convert(source, tmp_path / 'other.pth', '--source-grid', 7, 7)


def test_pvt_and_the_config_of_a_plain_transformer(check_fails, tmp_path, config):
    torch.save(
        PyramidVisionTransformerV2(embed_dims=(8, 16, 40, 64), depths=(1, 1, 1, 1)).state_dict(), tmp_path / 'p.pth'
    )
    message = 'wanted a model.backbone of type DynamicTokenRoutingTransformer, got MSViT'
    check_fails(message, 'p.pth', '--config', config)


def test_swin_becomes_a_mixed_scale_one(convert, check_fails, tmp_path, weights, config):
    torch.manual_seed(0)
    sizes = dict(embed_dim=8, depths=(1, 1, 1), num_heads=(1, 2, 2), window_size=4)
    source, target = SwinTransformer(img_size=64, **sizes).state_dict(), tmp_path / 'msswin.pth'
    save_file(source, tmp_path / 'swin.safetensors')
    printed = convert(tmp_path / 'swin.safetensors', target, '--img-size', 64, 96)
    assert "'type': 'MSSwin', 'arch': {'embed_dims': 8, 'depths': [1, 1, 1], 'num_heads': [1, 2, 2]}" in printed
    assert "'img_size': [64, 96], 'patch_size': 4, 'region_size': 16, 'window_size': 4" in printed
    arch = dict(embed_dims=8, depths=[1, 1, 1], num_heads=[1, 2, 2])
    words = dict(arch=arch, region_size=16, window_size=4, out_indices=(2,))
    model = MODELS.build(dict(type='MSSwin', **words, init_cfg=dict(type='Pretrained', checkpoint=str(target))))
    model.init_weights()
    assert torch.equal(model.stages[1].blocks[0].ffn.layers[1].weight, source['layers.1.blocks.0.mlp.fc2.weight'])
    assert torch.equal(model.norm2.weight, source['norm.weight'])

    check_fails('wanted a model.backbone of type MSSwin, got MSViT', 'swin.safetensors', '--config', config)
    check_fails('weights of timm Swin: wanted no patch sizes, got some', 'swin.safetensors', '--patch-size', 8)
    torch.save(weights, tmp_path / 'vit.pth')
    config.write_text(f"model = dict(type='EncoderDecoder', backbone=dict(type='MSSwin', arch={arch}))")
    check_fails('wanted a model.backbone of type MSViT, got MSSwin', 'vit.pth', '--config', config)
