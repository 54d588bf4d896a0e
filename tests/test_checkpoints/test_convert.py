"""Converted weights give the features of the model they come from, with all regions fine."""

import math
import sys

import pytest
import torch
from mmengine.registry import MODELS
from mmpretrain.models.backbones import VisionTransformer as HostVisionTransformer
from mmseg.models.backbones.vit import VisionTransformer as SegVisionTransformer
from safetensors.torch import save_file
from timm.layers import resample_patch_embed
from timm.models.deit import VisionTransformerDistilled
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch.nn import functional as F

from msvit_mm.checkpoints import (
    describe_backbone,
    fit_weights,
    load_weights_safely,
    rename_keys,
    resize_patch_kernel,
)

SIZE = (64, 96)


def convert(weights, source_grid=None, prefix=None, **words):
    """Convert `weights` and load them, as strictly as the result promises: only the gate may be missing."""
    conversion = rename_keys(weights, prefix)
    model = MODELS.build(dict(type='MSViT') | words).eval()
    fit_weights(conversion, model, model.patch_resolution, source_grid)
    missing, unexpected = model.load_state_dict(conversion.state_dict, strict=False)
    assert missing == conversion.missing and all(key.startswith('gate.') for key in missing)
    assert not unexpected
    return model, conversion


def features(model, images):
    rows, columns = (math.ceil(size / model.coarse_patch_size) for size in images.shape[-2:])
    with torch.no_grad():
        return model(images, torch.zeros(len(images), rows, columns))[0].flatten(2).mT


def check_same_features(model, wanted, images):
    with torch.no_grad():
        torch.testing.assert_close(features(model, images), wanted, atol=1e-5, rtol=1e-5)


@pytest.fixture
def make_timm(perturb):
    def make(cls=TimmVisionTransformer, **kwargs):
        words = dict(img_size=SIZE, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2, num_classes=5)
        return perturb(cls(**words | kwargs)).eval()

    return make


@pytest.mark.parametrize(
    ('source', 'words'),
    [
        pytest.param({}, {}, id='augreg'),
        pytest.param(dict(num_classes=0), {}, id='no-head'),
        pytest.param(dict(global_pool='avg', fc_norm=True), dict(final_norm=False), id='fc-norm'),
        pytest.param(dict(init_values=0.1, no_embed_class=True), dict(layer_scale_init_value=1e-5), id='deit3'),
        pytest.param(dict(init_values=1e-5, patch_size=14), dict(layer_scale_init_value=1e-5), id='dinov2'),
        pytest.param(
            dict(class_token=False, global_pool='avg'), dict(with_cls_token=False, final_norm=False), id='gap'
        ),
        pytest.param(dict(pre_norm=True), dict(pre_norm=True), id='clip'),
        pytest.param(dict(reg_tokens=3), dict(num_registers=3), id='registers with positions'),
        pytest.param(
            dict(reg_tokens=4, no_embed_class=True, init_values=1e-5),
            dict(layer_scale_init_value=1e-5, num_registers=4),
            id='dinov2 with registers',
        ),
        pytest.param(dict(qkv_bias=False), {}, id='no-qkv-bias'),
    ],
)
def test_timm(make_timm, tiny_arch, source, words):
    patch_size = source.get('patch_size', 16)
    size = (4 * patch_size, 6 * patch_size)
    timm = make_timm(img_size=size, **source)
    described = describe_backbone(rename_keys(timm.state_dict()), patch_size, tiny_arch, (4, 6))
    assert described == dict(arch=tiny_arch, img_size=size, patch_size=patch_size, **words)

    gate = dict(type='ScaleGate', sample_size=patch_size)
    model, conversion = convert(timm.state_dict(), (4, 6), **described, coarse_patch_size=2 * patch_size, gate=gate)
    assert conversion.family == 'timm'
    assert set(conversion.renamed) | set(conversion.dropped) == set(timm.state_dict())
    assert not conversion.resampled
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        check_same_features(model, timm.forward_features(images)[:, timm.num_prefix_tokens :], images)


@pytest.mark.parametrize('layer_scale', [('ls1.gamma', 'ls2.gamma'), ('gamma_1', 'gamma_2')])
def test_layer_scale_is_kept(make_timm, tiny_arch, layer_scale):
    """`gamma_1` is what the authors of DeiT III wrote where timm writes `ls1.gamma`."""
    timm = make_timm(init_values=0.1)
    weights = {}
    for key, tensor in timm.state_dict().items():
        weights[key.replace('ls1.gamma', layer_scale[0]).replace('ls2.gamma', layer_scale[1])] = tensor
    model, _ = convert(weights, (4, 6), arch=tiny_arch, img_size=SIZE, layer_scale_init_value=1)
    for layer, block in zip(model.layers, timm.blocks, strict=True):
        assert torch.equal(layer.attn.gamma1.weight, block.ls1.gamma)
        assert torch.equal(layer.ffn.gamma2.weight, block.ls2.gamma)


def test_distillation_tokens_are_dropped_and_said(make_timm, tiny_arch):
    source = make_timm(cls=VisionTransformerDistilled)
    model, conversion = convert(source.state_dict(), (4, 6), arch=tiny_arch, img_size=SIZE)
    assert 'features differ from the source' in conversion.dropped['dist_token']
    assert conversion.dropped['pos_embed[1:2]'] == 'positions of dropped tokens'
    assert torch.equal(model.pos_embed[:, 1:], source.pos_embed[:, 2:])
    assert torch.equal(model.pos_embed[:, :1], source.pos_embed[:, :1])


@pytest.mark.parametrize('options', [dict(patch_bias=True), dict(), dict(pre_norm=True)], ids=str)
def test_mmseg(perturb, tiny_arch, options):
    """mmseg's patch embedding has no bias by default: zeros are the same."""
    words = dict(img_size=SIZE, embed_dims=32, num_layers=2, num_heads=2, mlp_ratio=2, final_norm=True)
    source = perturb(SegVisionTransformer(**words, **options))
    source.eval()
    model, conversion = convert(
        {f'backbone.{key}': tensor for key, tensor in source.state_dict().items()}
        | {'decode_head.conv_seg.weight': torch.zeros(1), 'auxiliary_head.0.conv_seg.bias': torch.zeros(1)},
        (4, 6),
        arch=tiny_arch,
        img_size=SIZE,
        norm_cfg=dict(type='LN', eps=1e-5),
        pre_norm=options.get('pre_norm', False),
    )
    assert conversion.family == 'mmseg'
    bias = 'patch_embed.projection.bias with zeros'
    assert (bias in conversion.filled) == (not options)
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        check_same_features(model, source(images)[0].flatten(2).mT, images)


@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.', 'module.backbone.', 'model_ema.module.'])
def test_mmpretrain(perturb, tiny_arch, prefix):
    words = dict(arch=tiny_arch, img_size=SIZE, layer_scale_init_value=0.1)
    source = perturb(HostVisionTransformer(**words, out_type='featmap'))
    source.eval()
    weights = {f'{prefix}{key}': tensor for key, tensor in source.state_dict().items()}
    if prefix == 'backbone.':
        weights |= {'head.layers.head.weight': torch.zeros(5, 32), 'data_preprocessor.mean': torch.zeros(3)}
    model, conversion = convert(weights, (4, 6), **words)
    assert conversion.family == 'mmpretrain'
    assert conversion.missing
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        check_same_features(model, source(images)[0].flatten(2).mT, images)


def test_msvit_itself_without_its_gate(make_msvit, tiny_arch):
    source = make_msvit()
    model, conversion = convert(source.state_dict(), (4, 6), arch=tiny_arch, img_size=SIZE)
    assert all(key.startswith('gate.') for key in conversion.dropped) and conversion.dropped
    images = torch.randn(2, 3, *SIZE)
    check_same_features(model, features(source, images), images)


def test_larger_patches_keep_their_tokens(make_timm, tiny_arch):
    """DINOv2's patches of 14 pixels: where every patch is enlarged to 16, the features are the same."""
    timm = make_timm(img_size=(56, 84), patch_size=14, init_values=0.1)
    model, conversion = convert(timm.state_dict(), (4, 6), arch=tiny_arch, img_size=SIZE, layer_scale_init_value=1)
    assert conversion.resampled == ['patch_embed.projection.weight, 14 x 14 to 16 x 16 pixels']
    small = torch.randn(2, 3, 56, 84)
    patches = small.unfold(2, 14, 14).unfold(3, 14, 14).reshape(-1, 3, 14, 14)
    large = F.interpolate(patches, size=(16, 16), mode='bicubic', antialias=True).view(2, 3, 4, 6, 16, 16)
    images = large.permute(0, 1, 2, 4, 3, 5).reshape(2, 3, *SIZE)
    with torch.no_grad():
        wanted = timm.forward_features(small)[:, 1:]
    torch.testing.assert_close(features(model, images), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('size', [(16, 16), (8, 12)])
def test_patch_kernel_as_timm_resizes_it(size):
    kernel = torch.randn(5, 3, 14, 14)
    wanted = resample_patch_embed(kernel, list(size))
    torch.testing.assert_close(resize_patch_kernel(kernel, size), wanted, atol=1e-4, rtol=1e-4)


def test_positions_are_resized_as_by_the_host(make_timm, tiny_arch):
    timm = make_timm(img_size=(64, 64))
    model, conversion = convert(timm.state_dict(), arch=tiny_arch, img_size=(96, 128))
    assert conversion.resampled == ['pos_embed, 4 x 4 to 6 x 8 cells']
    grid = timm.pos_embed[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    wanted = F.interpolate(grid, size=(6, 8), mode='bicubic').flatten(2).mT
    torch.testing.assert_close(model.pos_embed[:, 1:], wanted)
    assert torch.equal(model.pos_embed[:, :1], timm.pos_embed[:, :1])


def test_describe_backbone_by_the_sizes_of_the_weights(make_timm):
    timm = make_timm(img_size=28, patch_size=14, embed_dim=192, depth=12, mlp_ratio=4, init_values=1e-5)
    words = describe_backbone(rename_keys(timm.state_dict()))
    assert words['arch'] == dict(embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=768)
    assert words['img_size'] == (32, 32)
    convert(timm.state_dict(), **words)
    with pytest.raises(ValueError, match=r"wanted the sizes of a named architecture, got {'embed_dims': 32.*--config"):
        describe_backbone(rename_keys(make_timm().state_dict()))


def test_report(make_timm, tiny_arch):
    _, conversion = convert(make_timm(img_size=32).state_dict(), arch=tiny_arch, img_size=SIZE)
    report = conversion.format_report()
    for line in (
        'family      timm',
        'renamed     blocks.*.attn.qkv.weight -> layers.*.attn.qkv.weight (2)',
        'renamed     blocks.*.mlp.fc1.bias -> layers.*.ffn.layers.0.0.bias (2)',
        'resampled   pos_embed, 2 x 2 to 4 x 6 cells',
        'filled      none',
        'dropped     head.weight (a head)',
        'missing     gate.',
        'unexpected  none',
    ):
        assert line in report
    assert conversion.report()['renamed']['norm.bias'] == 'ln1.bias'


def test_several_backbones(make_timm, tiny_arch):
    timm = make_timm().state_dict()
    weights = {f'{name}.{key}': tensor for name in ('student', 'teacher.backbone') for key, tensor in timm.items()}
    with pytest.raises(ValueError, match=r"wanted one patch_embed, got .*'student.', 'teacher.backbone.'.*--prefix"):
        rename_keys(weights)
    with pytest.raises(ValueError, match="wanted one patch_embed below 'other.', got"):
        rename_keys(weights, 'other')
    _, conversion = convert(weights, (4, 6), 'teacher.backbone', arch=tiny_arch, img_size=SIZE)
    assert conversion.dropped['student.cls_token'] == "outside of the chosen prefix 'teacher.backbone.'"


@pytest.mark.parametrize(
    'key', ['blocks.0.attn.q_norm.weight', 'blocks.0.attn.rel_pos', 'backbone.norm.weight', 'epoch', 'headless']
)
def test_unexplained_key(make_timm, key):
    weights = make_timm().state_dict() | {key: torch.zeros(1)}
    with pytest.raises(ValueError, match=f'no rule of timm explains 1 of {len(weights)} keys: {key}'):
        rename_keys(weights)


def test_entry_that_is_no_tensor(make_timm):
    with pytest.raises(ValueError, match='no rule of timm explains 1 of .* keys: norm.bias'):
        rename_keys(make_timm().state_dict() | {'norm.bias': 3})


def test_two_keys_for_one_weight(make_timm):
    weights = make_timm(init_values=0.1).state_dict() | {'blocks.1.gamma_1': torch.zeros(32)}
    with pytest.raises(ValueError, match='keys: blocks.1.gamma_1'):
        rename_keys(weights)


@pytest.mark.parametrize('keys', [['conv.weight'], ['patch_embed.proj.weight', 'layers.0.blocks.0.attn.qkv.weight']])
def test_no_plain_transformer(keys):
    with pytest.raises(ValueError, match=f'wanted (one patch_embed|a plain vision transformer of timm).*got {keys[0]}'):
        rename_keys({key: torch.zeros(1) for key in keys})


@pytest.mark.parametrize(
    ('source', 'target', 'message'),
    [
        (dict(depth=1), {}, r'keys 12 missing: layers.1.ln1.weight.*and 9 more\.'),
        (dict(depth=3), {}, r'keys 12 unexpected: layers.2.ln1.weight'),
        (dict(init_values=0.1), {}, '4 unexpected: layers.0.attn.gamma1.weight'),
        ({}, dict(layer_scale_init_value=0.1), '4 missing: layers.0.attn.gamma1.weight'),
        (dict(class_token=False, global_pool='avg'), {}, '3 missing: cls_token, ln1.weight, ln1.bias'),
        (dict(embed_dim=48), {}, r'cls_token: wanted \(1, 1, 32\), got \(1, 1, 48\)'),
        (dict(in_chans=4), {}, r'projection.weight: wanted \(32, 3, 16, 16\), got \(32, 4, 16, 16\)'),
    ],
)
def test_weights_of_another_backbone(make_timm, tiny_arch, source, target, message):
    with pytest.raises(ValueError, match=message):
        convert(make_timm(**source).state_dict(), (4, 6), arch=tiny_arch, img_size=SIZE, **target)


def test_position_grid(make_timm, tiny_arch):
    weights = make_timm(img_size=(64, 112)).state_dict()
    for grid, wanted in ((None, 'a square grid of positions'), ((5, 6), '5 x 6 positions')):
        with pytest.raises(ValueError, match=f'pos_embed: wanted {wanted}, got 29 rows; give --source-grid'):
            convert(weights, grid, arch=tiny_arch, img_size=SIZE)
    with pytest.raises(ValueError, match=r'pos_embed: wanted shape \(1, positions, channels\), got \(32,\)'):
        convert(weights | {'pos_embed': torch.zeros(32)}, arch=tiny_arch, img_size=SIZE)


@pytest.mark.parametrize('entry', ['', 'state_dict', 'model', 'teacher', 'model_ema', 'state_dict_ema'])
def test_load_weights(tmp_path, entry):
    weights = {'norm.weight': torch.ones(2)}
    others = dict(epoch=3, optimizer={}, model={'norm.weight': torch.zeros(2)}) if 'ema' in entry else {}
    torch.save(others | {entry: weights} if entry else weights, tmp_path / 'weights.pth')
    loaded, found = load_weights_safely(tmp_path / 'weights.pth')
    assert torch.equal(loaded['norm.weight'], torch.ones(2))
    assert found == entry


def test_load_safetensors(tmp_path, monkeypatch):
    path = tmp_path / 'weights.safetensors'
    save_file({'norm.weight': torch.ones(2)}, path)
    loaded, found = load_weights_safely(path)
    assert torch.equal(loaded['norm.weight'], torch.ones(2)) and found == ''
    for size in (len(path.read_bytes()) - 4, 5, 0):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=f'wanted a file written by safetensors, got {size} bytes that are trunc'):
            load_weights_safely(path)
    with pytest.raises(ValueError, match='wanted a file, got none'):
        load_weights_safely(tmp_path / 'absent.safetensors')
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    with pytest.raises(ValueError, match='wanted the package safetensors, got none; pip install safetensors'):
        load_weights_safely(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({}, 'wanted weights by name, got dict'),
        ({'epoch': 3}, 'wanted weights by name, got the keys epoch'),
        ({'state_dict': {}}, "wanted weights in 'state_dict', got the keys of an empty dict"),
        ({'model': {'epoch': 3}}, "wanted weights in 'model', got the keys epoch"),
        (torch.ones(2), 'wanted weights by name, got Tensor'),
    ],
)
def test_file_without_weights(tmp_path, content, message):
    torch.save(content, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match=message):
        load_weights_safely(tmp_path / 'weights.pth')


def official_name(key):
    """The name that PVTv2's authors give what timm calls `key`."""
    key = key.replace('mlp.dwconv.', 'mlp.dwconv.dwconv.').replace('patch_embed.', 'patch_embed1.')
    for i in range(4):
        key = key.replace(f'stages.{i}.downsample.', f'patch_embed{i + 1}.')
        key = key.replace(f'stages.{i}.blocks.', f'block{i + 1}.').replace(f'stages.{i}.norm.', f'norm{i + 1}.')
    return key


@pytest.mark.parametrize('family', ['timm PVTv2', 'PVTv2'])
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_pvt(perturb, family, prefix):
    words = dict(embed_dims=(8, 16, 40, 64), depths=(1, 2, 1, 1), mlp_ratios=(2, 3, 2, 2))
    source = perturb(PyramidVisionTransformerV2(num_classes=5, num_heads=(1, 2, 5, 8), sr_ratios=(8, 4, 2, 1), **words))
    rename = official_name if family == 'PVTv2' else str
    conversion = rename_keys({f'{prefix}{rename(key)}': tensor for key, tensor in source.state_dict().items()})
    assert conversion.family == family and conversion.is_pyramid
    assert set(conversion.dropped.values()) == {'a head'} and len(conversion.dropped) == 2
    assert describe_backbone(conversion) == dict(arch=words)

    config = dict(type='DynamicTokenRoutingTransformer', arch=words, gate=dict(type='FixedRoutes', routes='staircase'))
    model = MODELS.build(config).eval()
    fit_weights(conversion, model, None)
    missing, unexpected = model.load_state_dict(conversion.state_dict, strict=False)
    assert missing == conversion.missing and not unexpected
    assert all(key.startswith(('merge_scales.', 'nodes.')) for key in missing) and 'nodes.0_1.0.norm1.bias' in missing
    images = torch.randn(2, 3, 64, 100)
    with torch.no_grad():
        wanted = source.eval().forward_intermediates(images, intermediates_only=True)
        for x, y in zip(model(images), wanted, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
    report = conversion.format_report()
    assert len([line for line in report.splitlines() if line.startswith('renamed')]) < 60


def test_pvt_of_other_sizes_or_kinds_is_refused():
    words = dict(embed_dims=(8, 16, 40, 64), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2))
    source = PyramidVisionTransformerV2(num_classes=0, num_heads=(1, 2, 5, 8), **words).state_dict()

    def target(**changes):
        return MODELS.build(dict(type='DynamicTokenRoutingTransformer', arch=words | changes))

    with pytest.raises(ValueError, match=r'keys 20 missing: nodes.0_0.1'):
        fit_weights(rename_keys(source), target(depths=(2, 1, 1, 1)), None)
    with pytest.raises(ValueError, match=r'nodes.0_0.0.mlp.fc1.weight: wanted \(24, 8\), got \(16, 8\)'):
        fit_weights(rename_keys(source), target(mlp_ratios=(3, 2, 2, 2)), None)
    linear = PyramidVisionTransformerV2(num_classes=0, num_heads=(1, 2, 5, 8), linear=True, **words).state_dict()
    with pytest.raises(ValueError, match=r'4 unexpected: nodes.3_3.0.attn.sr.weight'):
        fit_weights(rename_keys(linear), target(), None)


def test_rotary_positions_of_others_than_dinov3_are_refused(make_timm, tiny_arch):
    weights = {key: x for key, x in make_timm().state_dict().items() if key != 'pos_embed'}
    with pytest.raises(ValueError, match='or the rotary positions of DINOv3, .* 0 registers'):
        rename_keys(weights)
