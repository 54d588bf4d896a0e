"""A start from weights that were meant for something else stops; one from a part of a network goes on."""

import pytest
import torch
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS

from msvit_mm.checkpoints.starting import CheckedPretrained, check_start, weights_below


def make(arch, classes=3, channels=32, gate='ScaleGate', **backbone):
    words = dict(type='MSViT', arch=arch | dict(embed_dims=channels), img_size=(64, 96), gate=dict(type=gate))
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


def test_weights_below_keep_what_modules_say():
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    checkpoint = dict(state_dict=torch.nn.ModuleDict(dict(backbone=module)).state_dict())
    assert weights_below(checkpoint, 'backbone')._metadata['0'] == dict(version=2)
    assert weights_below(checkpoint, None)._metadata['backbone.0'] == dict(version=2)
    assert set(weights_below(checkpoint, 'backbone.')) == set(module.state_dict())
