"""A start from weights that were meant for something else stops; one from a part of a network goes on."""

import re
from pathlib import Path

import pytest
import timm
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
from mmseg.models.backbones import VisionTransformer
from safetensors.torch import save_file
from timm.models import vision_transformer as timm_vit

from msvit_mm.checkpoints.loading import HASH_IN_NAME, use_safe_loader
from msvit_mm.checkpoints.starting import (
    CheckedPretrained,
    absent_parts,
    addresses,
    adopt_weights,
    check_start,
    forget_addresses,
    weights_below,
)
from msvit_mm.cli.config import load_config

ROOT = Path(__file__).parents[2]


def make(arch, classes=3, channels=32, gate='ScaleGate', scale_gate=None, **backbone):
    gate = scale_gate or dict(type=gate)
    words = dict(type='MSViT', arch=arch | dict(embed_dims=channels), img_size=(64, 96), gate=gate)
    head = dict(type='FCNHead', in_channels=channels, channels=8, num_convs=1, num_classes=classes)
    return MODELS.build(dict(type='GatedEncoderDecoder', backbone=words | backbone, decode_head=head))


@pytest.fixture
def model(tiny_arch):
    return make(tiny_arch)


def test_starts(model, tiny_arch):
    state = model.state_dict()
    check_start(model, {f'module.{key}': value for key, value in state.items()}, 'file')
    check_start(model, make(tiny_arch, gate='FixedGate').state_dict(), 'file')  # dense
    check_start(model, make(tiny_arch, classes=7).state_dict(), 'file')  # of another task
    for part in ('backbone.gate.', 'decode_head.'):
        check_start(model, {key: value for key, value in state.items() if key.startswith(part)}, 'file')
    check_start(model.backbone, model.backbone.state_dict(), 'file')
    check_start(model.backbone.gate, model.backbone.gate.state_dict(), 'file')


def test_mistaken_starts(model, tiny_arch):
    state = model.state_dict()

    def check_fails(message, weights, module=model):
        with pytest.raises(ValueError, match=message):
            check_start(module, weights, "init_cfg 'file'")

    check_fails(
        "init_cfg 'file': wanted some of the .*backbone.cls_token, got encoder.backbone",
        {f'encoder.{key}': value for key, value in state.items()},
    )
    check_fails('wanted some of the .* weights of MSViT, .* got backbone.cls_token', state, model.backbone)
    check_fails('got none', {})
    for lost in ('backbone.layers.1.ln1.weight', 'backbone.gate.layers.0.bias', 'decode_head.conv_seg.bias'):
        check_fails(f'wanted whole parts .*, got none of {lost}', {k: v for k, v in state.items() if k != lost})
    check_fails(r'backbone.cls_token: wanted \(1, 1, 32\), got \(1, 1, 16\)', make(tiny_arch, channels=16).state_dict())
    check_fails('wanted finite', state | {'backbone.ln1.weight': torch.full((32,), torch.nan)})
    check_fails('wanted torch.float32', state | {'backbone.ln1.weight': torch.ones(32, dtype=torch.bool)})
    check_fails('dense tensor of real numbers, got str', state | {'decode_head.conv_seg.bias': 'x'})


OWN = dict(coarse_embedding='own', detail=dict(hidden_dims=8, levels=(0,)))


def test_what_begins_as_zero_may_lack_in_a_start_and_not_in_the_model(model, tiny_arch):
    own = make(tiny_arch, **OWN)
    check_start(own, model.state_dict(), 'file')
    check_start(own.backbone, model.backbone.state_dict(), 'file')
    check_start(own, own.state_dict(), 'file')
    assert absent_parts(own.state_dict(), model.state_dict()) == ['backbone.coarse_pixels', 'backbone.detail']
    wrapped = {f'module.{key}': value for key, value in own.state_dict().items()}
    words = dict(coarse_pixels="set model.backbone.coarse_embedding='own'", detail='set model.backbone.detail=dict')
    for weights in (own.state_dict(), wrapped):
        for part, message in words.items():
            kept = {key: value for key, value in weights.items() if part in key or not set(words) & set(key.split('.'))}
            with pytest.raises(
                ValueError, match=f'file: wanted a model with backbone.{part}, .* got one without; {message}'
            ):
                check_start(model, kept, 'file')
    some = {key: value for key, value in own.state_dict().items() if 'detail.outputs' not in key}
    with pytest.raises(ValueError, match='wanted whole parts .*, got none of backbone.detail.outputs'):
        check_start(own, some, 'file')


@pytest.mark.parametrize('gate', [dict(type='ScaleGate', sample_size=8), dict(type='SharedScaleGate')], ids=str)
def test_a_gate_of_more_scales_is_no_start(tiny_arch, gate):
    """The perceptron of the regions would be left out, or meant for other nodes; with none to learn it is a start."""
    three, two = make(tiny_arch, patch_sizes=(8, 16, 32), scale_gate=gate), make(tiny_arch, patch_size=8)
    for own, weights in ((two, three.state_dict()), (two.backbone, three.backbone.state_dict())):
        with pytest.raises(
            ValueError, match=r'file: wanted a gate of no more scales .*; set model.backbone.patch_sizes'
        ):
            check_start(own, weights, 'file')
    check_start(three, three.state_dict(), 'file')
    check_start(make(tiny_arch, patch_size=8, gate='EdgeGate'), three.state_dict(), 'file')


def test_a_plain_segmentor_of_mmseg_is_a_start(tiny_arch, perturb):
    words = dict(img_size=(64, 96), embed_dims=32, num_layers=2, num_heads=2, mlp_ratio=2, final_norm=True)
    plain, own = (perturb(x) for x in (VisionTransformer(**words), make(tiny_arch, norm_cfg=dict(type='LN', eps=1e-5))))
    plain.eval(), own.eval()  # mmseg's returns nothing
    weights = {f'backbone.{key}': value for key, value in plain.state_dict().items()}
    head = {key: value + 1 for key, value in own.state_dict().items() if key.startswith('decode_head.')}
    adopted = adopt_weights(own, weights | head)
    check_start(own, adopted, 'file')
    own.load_state_dict(adopted, strict=False)
    images = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(own.backbone(images, torch.zeros(2, 2, 3))[0], plain(images)[0], rtol=1e-5, atol=1e-5)
    assert all(torch.equal(own.state_dict()[key], value) for key, value in head.items())
    state = own.state_dict()
    assert adopt_weights(own, state) is state
    with pytest.raises(ValueError, match='the weights do not fit the backbone'):
        adopt_weights(own, {key: value for key, value in weights.items() if 'layers.1.ln2' not in key})


def test_pretrained_init(model, tmp_path, monkeypatch):
    monkeypatch.setitem(WEIGHT_INITIALIZERS.module_dict, 'Pretrained', CheckedPretrained)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    words = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    other = MODELS.build(dict(type='MSViT', arch=model.backbone.arch_settings, img_size=(64, 96)))
    for prefix in ('backbone', 'backbone.'):
        other.init_cfg, other.is_init = words | dict(prefix=prefix), False
        other.init_weights()
        for key, value in other.state_dict().items():
            assert torch.equal(value, model.backbone.state_dict()[key])
    for prefix in (None, 'module.backbone', 'neck'):
        other.init_cfg, other._is_init = words | dict(prefix=prefix), False
        with pytest.raises(ValueError, match='a.pth.: wanted some of the'):
            other.init_weights()


def test_files_of_other_libraries_are_converted(tmp_path):
    torch.manual_seed(0)
    source = timm_vit.VisionTransformer(img_size=64, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2)
    torch.save(source.state_dict(), tmp_path / 'timm.pth')
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    backbone = MODELS.build(dict(type='MSViT', arch=arch, img_size=(64, 96)))
    CheckedPretrained(str(tmp_path / 'timm.pth'), convert=True)(backbone)
    assert torch.equal(backbone.layers[1].attn.qkv.weight, source.blocks[1].attn.qkv.weight)
    assert backbone.pos_embed.shape == (1, 25, 32)


def test_addresses_are_found_and_forgotten():
    recipe = dict(type='Pretrained', checkpoint='https://host/a-12345678.pth')
    local = dict(type='Pretrained', checkpoint='a.pth')
    config = dict(backbone=dict(init_cfg=recipe, gate=dict(init_cfg=local)), heads=[dict(init_cfg=recipe)])
    assert list(addresses(config)) == ['https://host/a-12345678.pth'] * 2
    model = BaseModule(recipe)
    model.inner = BaseModule(local)
    forget_addresses(model)
    assert model.init_cfg is None and model.inner.init_cfg == local


# Recipes on public data without an address of weights, and why (docs/weights.md).
NO_HASH = {'dit_classifier_imagenet', 'dit_fpn_ade20k', 'dit_upernet_ade20k'}  # PVTv2's authors name none
LICENSED = {'msvit_dinov3_small_linear_ade20k', 'msvit_dinov3_small_upernet_ade20k'}  # a file of the user's
GATE_ALONE = {'msvit_classifier_region_imagenet'}  # of which only the gate moves on
PUBLIC = [path.stem for path in (ROOT / 'configs').glob('*.py') if re.search('ade20k|cityscapes|imagenet', path.stem)]


@pytest.mark.parametrize('name', sorted(PUBLIC))
def test_recipes_start_from_published_weights(name):
    found = list(addresses(load_config(name).model))
    assert len(found) == (name not in NO_HASH | LICENSED | GATE_ALONE)
    assert all(re.search(HASH_IN_NAME, address) for address in found)


@pytest.mark.parametrize('name', sorted(LICENSED))
def test_recipes_start_from_a_licensed_file(name, tmp_path, monkeypatch):
    """Whether it lies where the recipe says, as timm writes it; a missing one is named."""
    backbone = load_config(name).model.backbone
    backbone.arch = dict(embed_dims=64, num_layers=2, num_heads=1, feedforward_channels=256)
    backbone.out_indices, backbone.detail, backbone.img_size = [1], None, (64, 96)
    module = MODELS.build(backbone)
    recipe = CheckedPretrained(**{key: value for key, value in backbone.init_cfg.items() if key != 'type'})
    use_safe_loader()
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match='vit_small_patch16_dinov3.lvd1689m.safetensors'):
        recipe(module)
    words = dict(embed_dim=64, depth=2, num_heads=1, num_classes=0, img_size=(64, 96))
    source = timm.create_model('vit_small_patch16_dinov3', **words)
    save_file(source.state_dict(), backbone.init_cfg.checkpoint)
    recipe(module)
    torch.testing.assert_close(module.patch_embed.projection.weight, source.patch_embed.proj.weight)
    torch.testing.assert_close(module.layers[1].attn.qkv.weight, source.blocks[1].attn.qkv.weight)


def test_weights_below_keep_what_modules_say():
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    checkpoint = dict(state_dict=torch.nn.ModuleDict(dict(backbone=module)).state_dict())
    assert weights_below(checkpoint, 'backbone')._metadata['0'] == dict(version=2)
    assert weights_below(checkpoint, None)._metadata['backbone.0'] == dict(version=2)
    assert set(weights_below(checkpoint, 'backbone.')) == set(module.state_dict())
