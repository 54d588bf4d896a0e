import pytest
import torch
from mmengine.config import Config

from msvit_mm.cli import models
from msvit_mm.cli.models import build_gated_model


def test_weights_are_those_of_the_checkpoint(tiny_arch, tmp_path):
    head = dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3, norm_cfg=dict(type='SyncBN'))
    backbone = dict(type='MSViT', arch=tiny_arch, img_size=32)
    cfg = Config(dict(model=dict(type='GatedEncoderDecoder', backbone=backbone, decode_head=head)))
    weights = {f'module.{name}': x + 1 for name, x in build_gated_model(cfg, None, 'cpu').state_dict().items()}
    torch.save({'state_dict': weights, 'meta': {}}, tmp_path / 'weights.pth')
    model = build_gated_model(cfg, str(tmp_path / 'weights.pth'), 'cpu')
    assert not model.training
    assert all(torch.equal(x, weights[f'module.{name}']) for name, x in model.state_dict().items())
    with pytest.raises(ValueError, match='wanted a file, got none'):
        build_gated_model(cfg, str(tmp_path / 'absent.pth'), 'cpu')
    torch.save({'state_dict': {'backbone.ln1.weight': torch.ones(32)}, 'meta': {}}, tmp_path / 'part.pth')
    with pytest.raises(ValueError, match='does not fit the model: .* weights are missing'):
        build_gated_model(cfg, str(tmp_path / 'part.pth'), 'cpu')


def test_building_leaves_the_config_as_it_is(tiny_arch):
    """mmpretrain's classifier adds its augmentations to the preprocessor's config, which publishing compares."""
    model = dict(
        type='GatedImageClassifier',
        data_preprocessor=dict(type='ClsDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3),
        backbone=dict(type='MSViT', arch=tiny_arch, img_size=64),
        head=dict(type='MultiLabelLinearClsHead', num_classes=2, in_channels=32),
        gate_loss=dict(type='BatchShapingLoss'),
    )
    cfg = Config(dict(default_scope='mmpretrain', model=model))
    text = cfg.pretty_text
    build_gated_model(cfg, None, 'cpu')
    assert cfg.pretty_text == text


def test_model_without_a_gate_is_refused(tiny_arch):
    head = dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3)
    backbone = dict(type='mmpretrain.VisionTransformer', arch=tiny_arch, img_size=32, out_type='featmap')
    cfg = Config(dict(model=dict(type='EncoderDecoder', backbone=backbone, decode_head=head)))
    with pytest.raises(ValueError, match=r'wanted a model over a gated backbone.*EncoderDecoder over VisionTransf'):
        build_gated_model(cfg, None, 'cpu')


def test_sync_bn_is_replaced_everywhere():
    model = Config(
        dict(model=dict(norm=dict(type='SyncBN'), heads=[dict(norm=dict(type='SyncBN', eps=1e-3)), None]))
    ).model
    models._replace_sync_bn(model)
    assert model.norm.type == 'BN'
    assert model.heads[0].norm == dict(type='BN', eps=1e-3)
