"""The gate's choices, drawn by the hosts' own hook in validation and testing."""

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from msvit_mm.visualization import draw_choices

CONFIG = Path(__file__).parents[2] / 'configs/_base_/runtime/default_runtime.py'
SIZE = (64, 96)  # what the network sees; the files are larger
BACKBONES = {
    'regions': (32, dict(type='MSViT', arch='tiny', img_size=SIZE, gate=dict(type='ScaleGate', initial_ratio=0.5))),
    'routes': (
        64,
        dict(
            type='DynamicTokenRoutingTransformer',
            arch=dict(embed_dims=(8, 16, 40, 64), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2)),
            img_size=SIZE,
            out_indices=(3,),
            gate=dict(type='RandomRoutes', active_ratio=0.5),
        ),
    ),
}


@pytest.fixture
def make_runner(tmp_path, tiny_arch):
    """A runner of a segmentor with random weights on three image files, as the configs of this package set it up."""
    generator = np.random.default_rng(0)
    for folder, shape in (('images', (80, 120, 3)), ('labels', (80, 120))):
        (tmp_path / folder).mkdir()
        for index in range(3):
            cv2.imwrite(str(tmp_path / folder / f'{index}.png'), generator.integers(0, 2, shape, np.uint8) * 120 % 119)

    def make(kind):
        channels, backbone = copy.deepcopy(BACKBONES[kind])
        if kind == 'regions':
            backbone['arch'] = tiny_arch
        steps = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=SIZE[::-1]), dict(type='LoadAnnotations')]
        dataset = dict(
            type='BaseSegDataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            img_suffix='.png',
            metainfo=dict(classes=('ground', 'object'), palette=[[0, 0, 0], [255, 0, 0]]),
            pipeline=[*steps, dict(type='PackSegInputs')],
        )
        loader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)
        evaluator = [dict(type='IoUMetric'), dict(type='ComplexityMetric')]
        head = dict(type='FCNHead', in_channels=channels, channels=8, num_convs=1, num_classes=2, norm_cfg=None)
        cfg = Config.fromfile(CONFIG)
        cfg.merge_from_dict(
            dict(
                model=dict(
                    type='GatedEncoderDecoder',
                    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[60.0] * 3),
                    backbone=backbone,
                    decode_head=head | dict(in_index=0),
                    train_cfg=dict(),
                    test_cfg=dict(mode='whole'),
                ),
                val_dataloader=loader,
                test_dataloader=loader,
                val_evaluator=evaluator,
                test_evaluator=evaluator,
                val_cfg=dict(type='ValLoop'),
                test_cfg=dict(type='TestLoop'),
                default_hooks=dict(visualization=dict(type='SegVisualizationHook', draw=True, interval=1)),
                work_dir=str(tmp_path / 'work'),
                experiment_name=f'{tmp_path.name}_{kind}',
                log_level='WARNING',
            )
        )
        cfg.visualizer.name = cfg.experiment_name  # visualizers of one name are one
        return Runner.from_cfg(cfg)

    return make


@pytest.mark.parametrize('kind', BACKBONES)
def test_the_hook_of_the_host_draws_choices(make_runner, tmp_path, kind):
    runner = make_runner(kind)
    runner.val()
    drawn = {path.name: cv2.imread(str(path)) for path in (tmp_path / 'work').rglob('*.png')}
    first = {'val_0.png_0.png', 'val_0.png_gate_0.png', 'val_2.png_1.png', 'val_2.png_gate_1.png'}
    assert set(drawn) == first  # of each batch the first image
    assert all(drawn[name].std() > 10 for name in first if 'gate' in name)
    runner.test()
    names = {path.name for path in (tmp_path / 'work').rglob('test_*_gate_*.png')}
    assert names == {f'test_{i}.png_gate_{i + 1}.png' for i in range(3)}


def test_a_file_of_its_own_holds_the_segmentation_alone(make_runner, tmp_path):
    runner = make_runner('routes')
    batch = next(iter(runner.val_dataloader))
    with torch.no_grad():
        sample, _ = runner.model.eval().val_step(batch)
    image = np.zeros((80, 120, 3), np.uint8)
    runner.visualizer.dataset_meta = runner.val_dataloader.dataset.metainfo
    runner.visualizer.add_datasample('image', image, sample, out_file=str(tmp_path / 'shown.png'))
    runner.visualizer.add_datasample('image', image, sample, draw_pred=False)
    assert (tmp_path / 'shown.png').is_file()
    assert [path.name for path in (tmp_path / 'work').rglob('*.png')] == ['image_0.png']
    figure = draw_choices(image, sample, 'image')
    assert figure.get_suptitle() == f'image: {sample.backbone_gmacs / sample.reference_gmacs:.2f} of the cost of PVTv2'
