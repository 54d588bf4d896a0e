"""timm's own functions make and use the models, whose features are the backbone's."""

import importlib
import sys
from collections import OrderedDict

import pytest
import timm
import torch
from mmengine.logging import MMLogger
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from timm.optim import create_optimizer_v2, param_groups_layer_decay

import msvit_mm.timm
from msvit_mm.backbones import MSViT
from msvit_mm.checkpoints import fit_weights, rename_keys

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
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(pooled, features.flatten(2).mean(2))
        assert torch.equal(model(images), model.head(pooled))
        assert model(images).shape == (2, 5)
    assert model.num_features == dims
    assert isinstance(model, msvit_mm.timm.TimmMSViT)


def test_initialisation_is_silent_unless_asked_for(tiny_arch, capsys, monkeypatch):
    monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())  # a logger as in a new process
    msvit_mm.timm.TimmMSViT(arch=tiny_arch, img_size=64)
    assert capsys.readouterr().out == ''
    MMLogger.get_current_instance().info('after')
    assert 'after' in capsys.readouterr().out
    MMLogger.get_current_instance().setLevel('INFO')
    msvit_mm.timm.TimmMSViT(arch=tiny_arch, img_size=64)
    assert '`init_weights` of MSViT' in capsys.readouterr().out


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


@torch.no_grad()
def test_feature_info_is_of_the_features(make, images):
    wrapped = make(patch_size=8, features_only=True)  # without out_indices: the last three
    model = wrapped.model
    maps = model.forward_intermediates(images, intermediates_only=True)
    for info, features in zip(model.feature_info, maps, strict=True):
        assert features.shape == (2, info['num_chs'], 64 / info['reduction'], 96 / info['reduction'])
        assert model.get_submodule(info['module'])
    assert tuple(wrapped.feature_info.out_indices) == tuple(wrapped.out_indices) == (9, 10, 11)
    assert wrapped.feature_info.channels() == [192] * 3 and wrapped.feature_info.reduction() == [8] * 3


@pytest.mark.parametrize('name', ['hook', 'list', 'dict', 'fx'])
def test_other_ways_to_features_are_refused(name):
    """Hooks would see packed tokens, and the layers are not children of the model."""
    with pytest.raises(ValueError, match=f"^feature_cls: wanted 'getter', the maps .*, got '{name}'$"):
        timm.create_model('msvit_tiny_patch16_512', features_only=True, feature_cls=name)


def test_there_are_no_weights():
    with pytest.raises(RuntimeError, match='^No pretrained weights exist for msvit_tiny_patch16_512'):
        timm.create_model('msvit_tiny_patch16_512', img_size=64, pretrained=True)


def test_classifier(make, images):
    model = make(global_pool='avg')
    assert model.get_classifier().out_features == 5
    model.reset_classifier(7)
    assert (model(images).shape, model.num_classes) == ((2, 7), 7)
    assert model.prune_intermediate_layers([2, -1], prune_head=False) == [2, 11]
    assert model(images).shape == (2, 7)
    model.prune_intermediate_layers([2, -1])
    assert torch.equal(model(images), model.forward_features(images))
    model.reset_classifier(7)
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


@pytest.mark.parametrize('words', [dict(detail=dict(levels=(0,))), dict(out_indices=[0]), dict(out_type='cls_token')])
def test_words_of_maps_that_timm_chooses_itself(make, words):
    with pytest.raises(ValueError, match=f'{next(iter(words))}: wanted .* under timm, got'):
        make(**words)


def test_groups(make):
    model = make(coarse_embedding='own')
    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5)
    scales = {id(p): group['lr_scale'] for group in groups for p in group['params']}
    scale = {name: scales[id(p)] for name, p in model.named_parameters()}
    assert scale['backbone.gate.layers.0.weight'] == scale['backbone.pos_embed']
    assert {x for name, x in scale.items() if 'coarse_pixels' in name} == {scale['backbone.pos_embed']}
    assert scale['backbone.layers.0.ln1.weight'] < scale['backbone.layers.1.ln1.weight'] < scale['head.weight'] == 1
    groups = create_optimizer_v2(model, 'adamw', weight_decay=0.05).param_groups
    decay = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    decay = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert decay['backbone.pos_embed'] == decay['backbone.cls_token'] == decay['head.bias'] == 0
    assert decay['backbone.layers.0.attn.qkv.weight'] == decay['head.weight'] == 0.05


def test_without_timm_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm.models', None)
    monkeypatch.delitem(sys.modules, 'msvit_mm.timm')
    with pytest.raises(ImportError, match=r'msvit_mm.timm needs timm; install with `pip install msvit_mm\[timm\]`'):
        importlib.import_module('msvit_mm.timm')


@pytest.fixture
def naflex():
    """A NaFlexVit of 32 channels whose features are all tokens."""

    def make(**words):
        words = dict(embed_dim=32, depth=2, num_heads=2, mlp_ratio=2.0, global_pool='', class_token=False) | words
        return NaFlexVit(NaFlexVitCfg(pos_embed_grid_size=(4, 6), **words), num_classes=0).eval()

    return make


def tokens_of(features):
    return features['patches'] if isinstance(features, dict) else features


@torch.no_grad()
def test_fine_patches_are_those_that_naflex_makes_itself(naflex, images):
    model = naflex(pos_embed='learned')
    patches = msvit_mm.timm.to_naflex(images, torch.zeros(2, 2, 3))
    order = (patches['patch_coord'] @ torch.tensor([6.0, 1.0])).argsort(1)  # ours go region by region
    patches = {name: x.take_along_dim(order.view(2, -1, *[1] * (x.ndim - 2)), 1) for name, x in patches.items()}
    patches['patch_coord'] = patches['patch_coord'].long()  # as they are where nothing is coarse
    wanted, got = (tokens_of(model.forward_features(**x)) for x in (dict(patches=images), patches))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_mixed_patches_without_positions_are_msvits_tokens(naflex, images):
    """Half-integer coordinates mean nothing to its positions: without any, features of valid patches are ours."""
    source = naflex(pos_embed='none')
    weights = {name: x for name, x in source.state_dict().items() if not name.startswith('embeds.')}
    kernel = source.embeds.proj.weight.unflatten(1, (16, 16, 3)).permute(0, 3, 1, 2)
    weights |= {'patch_embed.proj.weight': kernel, 'patch_embed.proj.bias': source.embeds.proj.bias}
    conversion = rename_keys(weights | dict(pos_embed=torch.zeros(1, 24, 32)))
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    model = MSViT(arch=arch, img_size=(64, 96), with_cls_token=False, out_type='tokens').eval()
    fit_weights(conversion, model, model.patch_resolution, (4, 6))
    model.load_state_dict(conversion.state_dict, strict=False)
    decisions = torch.tensor([[[1.0, 0, 1], [0, 0, 1]], [[1.0, 1, 1], [1, 0, 1]]])
    patches = msvit_mm.timm.to_naflex(images, decisions)
    assert patches['patch_valid'].sum(1).tolist() == [15, 9]
    assert patches['patch_coord'][0, 0].tolist() == [0.5, 0.5]
    features = tokens_of(source.forward_features(**patches))
    (tokens,) = model(images, decisions)
    torch.testing.assert_close(features[patches['patch_valid']], tokens.active, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(decisions=torch.zeros(2, 1, 1)), r'shape \(B, rows, cols\) = \(2, 2, 3\), got \(2, 1, 1\)'),
        (dict(decisions=torch.zeros(1, 2, 3)), r'= \(2, 2, 3\), got \(1, 2, 3\)'),
        (dict(decisions=torch.zeros(2, 6)), r'= \(2, 2, 3\), got \(2, 6\)'),
        (dict(decisions=torch.full((2, 2, 3), 0.5)), r'must be 0 \(fine\) or 1 \(coarse\), got \[0.5\]'),
        (dict(decisions=torch.full((2, 2, 3), 2)), r'must be 0 \(fine\) or 1 \(coarse\), got \[2\]'),
        (dict(decisions=[torch.zeros(2, 2, 3)] * 2), r'must be 1 maps \(B, rows, cols\), .* got 2'),
        (dict(patch_sizes=(8, 16, 32)), r'must be 2 maps \(B, rows, cols\), .* got 1'),
        (dict(patch_sizes=(0, 16)), r'patch sizes must be .* got \(0, 16\)'),
        (dict(images=torch.zeros(3, 64, 96)), r'of shape \(B, 3, H, W\), got torch.float32 of shape \(3, 64, 96\)'),
        (
            dict(images=torch.zeros(2, 3, 64, 96, dtype=torch.uint8)),
            r'images must be floating point .* got torch.uint8',
        ),
    ],
)
def test_wrong_words_for_naflex(words, message):
    given = dict(images=torch.zeros(2, 3, 64, 96), decisions=torch.zeros(2, 2, 3)) | words
    with pytest.raises(ValueError, match=message):
        msvit_mm.timm.to_naflex(**given)
