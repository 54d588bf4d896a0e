import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from msvit_mm.engine.inference import UnlabelledImages, build_gated_model, check_device, find_images

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=10),
    dict(type='PackSegInputs'),
]
SCENES = dict(type='ScenesDataset', num_images=9, size=(32, 48), split='val', seed=0, pipeline=PIPELINE)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'below').mkdir()
    for value, name in enumerate(('a.png', 'below/c.PNG', 'b.jpg')):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), 10 * value, np.uint8))
    (tmp_path / 'notes.txt').write_text('no image')
    return tmp_path


def test_images_are_spaced_over_the_data_set():
    everything, some = UnlabelledImages(SCENES), UnlabelledImages(SCENES, 3)
    assert (len(everything), len(some), len(UnlabelledImages(SCENES, 99))) == (9, 3, 9)
    for i in range(3):
        assert torch.equal(some[i]['inputs'][0], everything[3 * i]['inputs'][0])
    assert not torch.equal(some[0]['inputs'][0], some[1]['inputs'][0])
    assert 'gt_sem_seg' not in some[0]['data_samples'][0]


def test_images_of_a_folder_take_its_place(folder):
    images = UnlabelledImages(SCENES, folder=str(folder))
    assert [int(batch['inputs'][0][0, 5, 5]) for batch in images] == [0, 20, 10]
    assert images[0]['inputs'][0].shape == (3, 20, 30)


def test_folders_without_images_are_refused(folder):
    (folder / 'empty').mkdir()
    with pytest.raises(ValueError, match=r'wanted an image file or a folder with .jpg.*, got none'):
        find_images(folder / 'empty')
    (folder / 'broken.png').write_text('no image')
    with pytest.raises(ValueError, match=r'broken.png.*wanted a readable image file, got none'):
        find_images(folder)
    with pytest.raises(ValueError, match='images: wanted at least one, got 0 of 9'):
        UnlabelledImages(SCENES, 0)


def test_absent_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    check_device('cpu')
    with pytest.raises(ValueError, match="device: wanted 'cuda', got a machine without CUDA"):
        check_device('cuda')


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
