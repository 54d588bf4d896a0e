"""timm's own functions make and use the models, whose features are the backbone's."""

import importlib
import sys

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay

import msvit_mm.timm

NAMES = ['msvit_base_patch16_512', 'msvit_small_patch16_512', 'msvit_tiny_patch16_512']


@pytest.fixture
def make():
    """A model for small images whose gate decides differently."""

    def create(name='msvit_tiny_patch16_512', **words):
        model = timm.create_model(name, img_size=(64, 96), num_classes=5, **words)
        gate = getattr(model, 'model', model).backbone.gate
        torch.nn.init.normal_(gate.layers[-1].weight, std=10)
        torch.nn.init.zeros_(gate.layers[-1].bias)
        return model.eval()

    return create


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96)


def test_registered():
    assert timm.list_models('msvit*') == NAMES
    assert timm.get_pretrained_cfg('msvit_small_patch16_512').input_size == (3, 512, 512)


@pytest.mark.parametrize(('name', 'dims'), zip(NAMES, (768, 384, 192), strict=True))
def test_create_model(make, images, name, dims):
    model = make(name)
    with torch.no_grad():
        features = model.forward_features(images)
        assert features.shape == (2, dims, 4, 6)
        assert model.forward_head(features, pre_logits=True).shape == (2, dims)
        assert torch.equal(model(images), model.forward_head(features))
        assert model(images).shape == (2, 5)
    assert model.num_features == dims
    assert isinstance(model, msvit_mm.timm.TimmMSViT)


@torch.no_grad()
def test_intermediates_are_the_backbones_maps(make, images):
    model = make()
    model.backbone.out_indices = [2, 5, 11]
    wanted, choices = model.backbone.forward_gated(images)
    assert 0 < choices.decisions.mean() < 1
    last, maps = model.forward_intermediates(images, indices=[2, 5, -1])
    assert all(torch.equal(x, y) for x, y in zip(maps, wanted, strict=True))
    assert torch.equal(last, wanted[-1]) and torch.equal(last, model.forward_features(images))
    assert model.backbone.out_indices == [2, 5, 11]
    assert len(model.forward_intermediates(images, intermediates_only=True)) == 12
    normed = model.forward_intermediates(images, indices=[2, 11], norm=True, intermediates_only=True)
    assert torch.equal(normed[1], last)
    torch.testing.assert_close(normed[0].permute(0, 2, 3, 1), model.backbone.ln1(maps[0].permute(0, 2, 3, 1)))
    with pytest.raises(ValueError, match="output_fmt: wanted 'NCHW' .*, got 'NLC'"):
        model.forward_intermediates(images, output_fmt='NLC')


@torch.no_grad()
@pytest.mark.parametrize('indices', [(2, 5, 8, 11), (-3, -1), 2])
def test_features_only(make, images, indices):
    model = make(features_only=True, out_indices=indices)
    features = model(images)
    assert [x.shape[1] for x in features] == model.feature_info.channels() == [192] * len(features)
    assert [64 // x.shape[2] for x in features] == model.feature_info.reduction() == [16] * len(features)
    wanted = model.model.forward_intermediates(images, indices=model.out_indices, intermediates_only=True)
    assert all(torch.equal(x, y) for x, y in zip(features, wanted, strict=True))


def test_classifier(make, images):
    model = make(global_pool='avg')
    assert model.get_classifier().out_features == 5
    model.reset_classifier(7)
    assert (model(images).shape, model.num_classes) == ((2, 7), 7)
    model.reset_classifier(0, '')
    assert torch.equal(model(images), model.forward_features(images))
    with pytest.raises(ValueError, match="global_pool: wanted one of 'avg', '', got 'token'"):
        model.reset_classifier(7, 'token')


def test_words_of_the_backbone(make, images):
    model = make(token_budget=9, drop_path_rate=0.1)
    assert model.backbone.forward_gated(images)[1].num_tokens.tolist() == [9, 9]
    assert max(model.backbone.drop_path_rates) == pytest.approx(0.1)


def test_every_parameter_has_a_gradient(make, images):
    model = make()
    model.train()
    model.set_grad_checkpointing()
    assert model.backbone.with_cp
    model(images).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    model.set_grad_checkpointing(False)
    assert not model.backbone.with_cp


def test_groups(make):
    model = make()
    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5)
    scales = {id(p): group['lr_scale'] for group in groups for p in group['params']}
    scale = {name: scales[id(p)] for name, p in model.named_parameters()}
    assert scale['backbone.gate.layers.0.weight'] == scale['backbone.pos_embed']
    assert scale['backbone.layers.0.ln1.weight'] < scale['backbone.layers.1.ln1.weight'] < scale['head.weight'] == 1
    assert create_optimizer_v2(model, 'adamw', weight_decay=0.05).param_groups


def test_without_timm_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm.models', None)
    monkeypatch.delitem(sys.modules, 'msvit_mm.timm')
    with pytest.raises(ImportError, match=r'msvit_mm.timm needs timm; install with `pip install msvit_mm\[timm\]`'):
        importlib.import_module('msvit_mm.timm')
