"""The detection config through train.py and test.py, where mmdet and mmcv's compiled ops are installed."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CONFIGS = Path(__file__).parents[2] / 'configs/detection'
CONFIG = CONFIGS / 'dit_mask_rcnn_coco.py'
INSTALLED = all(importlib.util.find_spec(name) is not None for name in ('mmdet', 'mmcv._ext'))
SMALL = [
    'model.backbone.arch=b0',
    'model.neck.in_channels=[32,64,160,256]',
    'train_cfg.max_epochs=1',
    'default_hooks.logger.interval=1',
    'model.roi_head.bbox_head.num_classes=1',
    'model.roi_head.mask_head.num_classes=1',
    'model.test_cfg.rcnn.score_thr=0.0',  # two steps teach nothing
    'model.test_cfg.rcnn.max_per_img=5',
]


@pytest.fixture
def coco(tmp_path):
    """A folder in COCO's layout: four images with a bright rectangle each; val is train."""
    root = tmp_path / 'coco'
    (root / 'train2017').mkdir(parents=True)
    (root / 'annotations').mkdir()
    (root / 'val2017').symlink_to('train2017')
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(4):
        image = generator.integers(0, 100, (120, 160, 3), np.uint8)
        x, y, width, height = 10 * index + 5, 20, 60, 70
        image[y : y + height, x : x + width] += 150
        images.append(dict(id=index, file_name=f'{index}.jpg', height=120, width=160))
        Image.fromarray(image).save(root / 'train2017' / f'{index}.jpg')
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        box = dict(bbox=[x, y, width, height], area=width * height, segmentation=[corners], iscrowd=0)
        annotations.append(dict(id=index + 1, image_id=index, category_id=1, **box))
    record = dict(images=images, annotations=annotations, categories=[dict(id=1, name='person')])
    for split in ('train', 'val'):
        (root / 'annotations' / f'instances_{split}2017.json').write_text(json.dumps(record))
    return root


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason='mmdet and the compiled ops of mmcv are optional')
def test_the_config_trains_and_tests(run, coco, tmp_path):
    options = [*SMALL, f'val_evaluator.ann_file={coco}/annotations/instances_val2017.json']
    options += [f'test_evaluator.ann_file={coco}/annotations/instances_val2017.json']
    for split, step in (('train', 2), ('val', 1), ('test', 1)):
        loader = f'{split}_dataloader'
        options += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False']
        options += [f'{loader}.dataset.data_root={coco}/', f'{loader}.dataset.pipeline.{step}.scale=(320,240)']
    train = run('train', CONFIG, '--work-dir', tmp_path / 'work', '--cfg-options', *options)
    line = next(line for line in train.splitlines() if 'Epoch(train)' in line)
    losses = {name: float(value) for name, value in re.findall(r'(loss\w*|cost_ratio): ([\d.]+)', line)}
    assert {'loss_rpn_cls', 'loss_bbox', 'loss_mask', 'loss_budget', 'cost_ratio'} <= set(losses)
    assert losses['cost_ratio'] > 0
    test = run('test', CONFIG, tmp_path / 'work/epoch_1.pth', '--cfg-options', *options)
    assert 'coco/segm_mAP: ' in test and 'cost_ratio' in test


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason='mmdet and the compiled ops of mmcv are optional')
def test_a_small_detector_trains_on_scenes_under_its_gate_and_others(run, tmp_path):
    """The command writes the data; one epoch, then the same network with all regions fine and all coarse."""
    run('scenes-to-coco', tmp_path / 'coco', '--num-images', 16, 4)
    annotations = f'{tmp_path}/coco/annotations/instances_val2017.json'
    options = ['train_cfg.max_epochs=1', 'default_hooks.logger.interval=1', 'model.test_cfg.rcnn.score_thr=0.0']
    options += [f'{split}_evaluator.ann_file={annotations}' for split in ('val', 'test')]
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        options += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False']
        options += [f'{loader}.dataset.data_root={tmp_path}/coco/']
    config, work = CONFIGS / 'msvit_mask_rcnn_scenes.py', tmp_path / 'work'
    train = run('train', config, '--work-dir', work, '--cfg-options', *options)
    assert re.search(r'loss_mask: [\d.]+', train) and 'coarse_ratio' in train
    for scale in ('fine', 'coarse'):
        gate = ['model.backbone.gate._delete_=True', 'model.backbone.gate.type=FixedGate', 'model.gate_loss=None']
        gate += [f'model.backbone.gate.scale={scale}']
        test = run('test', config, work / 'epoch_1.pth', '--cfg-options', *options, *gate)
        assert 'coco/segm_mAP: ' in test and 'cost_ratio' in test
