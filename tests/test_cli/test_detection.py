"""The detection configs through the commands, where mmdet and mmcv's compiled ops are installed."""

import importlib.util
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

CONFIGS = Path(__file__).parents[2] / 'configs/detection'
MISSING = [name for name in ('mmdet', 'mmcv._ext') if importlib.util.find_spec(name) is None]
needs_ops = pytest.mark.skipif(
    bool(MISSING),
    reason=f'no {" and no ".join(MISSING)}: detection is optional, docs/detection.md says how to install it',
)
STEPS = dict(train=2, val=1, test=1)  # where a pipeline resizes
SMALL = [
    'train_cfg.max_epochs=1',
    'default_hooks.logger.interval=1',
    'model.roi_head.bbox_head.num_classes=1',
    'model.roi_head.mask_head.num_classes=1',
    'model.test_cfg.rcnn.score_thr=0.0',  # two steps teach nothing
    'model.test_cfg.rcnn.max_per_img=5',
]
SMALLER = dict(
    dit=[
        'model.backbone.arch=b0',
        'model.neck.in_channels=[32,64,160,256]',
        *(f'{split}_dataloader.dataset.pipeline.{step}.scale=(320,240)' for split, step in STEPS.items()),
    ],
    msvit=[  # images of 192x256, padded to 256x256
        'model.backbone.arch=deit-tiny',
        'model.backbone.img_size=(256,256)',
        'model.neck.in_channels=192',
        'model.data_preprocessor.batch_augments.0.size=(256,256)',
        'train_dataloader.dataset.pipeline.3.crop_size=(256,256)',
        *(f'{split}_dataloader.dataset.pipeline.{step}.scale=(256,256)' for split, step in STEPS.items()),
    ],
)


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
@needs_ops
@pytest.mark.parametrize('name', SMALLER)
def test_the_configs_of_coco_train_test_and_draw(run, coco, tmp_path, name):
    annotations = f'{coco}/annotations/instances_val2017.json'
    options = [*SMALL, *SMALLER[name], *(f'{split}_evaluator.0.ann_file={annotations}' for split in ('val', 'test'))]
    for loader in (f'{split}_dataloader' for split in STEPS):
        options += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False']
        options += [f'{loader}.dataset.data_root={coco}/']
    config, work = CONFIGS / f'{name}_mask_rcnn_coco.py', tmp_path / 'work'
    train = run('train', config, '--work-dir', work, '--cfg-options', *options)
    line = next(line for line in train.splitlines() if 'Epoch(train)' in line)
    numbers = {name: float(value) for name, value in re.findall(r'(\w+): ([\d.]+)', line)}
    gate = dict(dit={'loss_budget', 'cost_ratio'}, msvit={'loss_gate_prior', 'coarse_ratio'})[name]
    assert {'loss_rpn_cls', 'loss_bbox', 'loss_mask', 'num_tokens', 'gmacs', *gate} <= set(numbers)
    assert numbers['gmacs'] > 0
    shown = '--work-dir', work, '--show-dir', tmp_path / 'shown'
    test = run('test', config, work / 'epoch_1.pth', *shown, '--cfg-options', *options)
    assert 'coco/segm_mAP' in test and 'cost_ratio' in test and 'gate on this rank: ' in test
    assert len(list((tmp_path / 'shown').rglob('test_img_gate_*.png'))) == 4


@pytest.mark.slow
@needs_ops
def test_a_small_detector_trains_on_scenes_is_compared_and_drawn(run, fail, tmp_path):
    """The commands write the data, train an epoch, test the network under its gate and others, and draw."""
    run('scenes-to-coco', tmp_path / 'coco', '--num-images', 16, 4)
    annotations = f'{tmp_path}/coco/annotations/instances_val2017.json'
    options = ['train_cfg.max_epochs=1', 'default_hooks.logger.interval=1', 'model.test_cfg.rcnn.score_thr=0.0']
    options += ['model.test_cfg.rcnn.max_per_img=5']
    options += [f'{split}_evaluator.0.ann_file={annotations}' for split in ('val', 'test')]
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        options += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False']
        options += [f'{loader}.dataset.data_root={tmp_path}/coco/']
    config, work = CONFIGS / 'msvit_mask_rcnn_scenes.py', tmp_path / 'work'
    train = run('train', config, '--work-dir', work, '--cfg-options', *options)
    assert re.search(r'loss_mask: [\d.]+', train) and 'coarse_ratio' in train and 'gate on this rank: ' in train

    network = config, work / 'epoch_1.pth'
    folders = '--out-dir', tmp_path / 'gates', '--work-dir', work
    table = run('compare-gates', *network, *folders, '--num-images', 2, '--cfg-options', *options)
    assert 'box AP' in table and 'mask AP' in table
    gates = json.loads((tmp_path / 'gates/gates.json').read_text())['gates']
    assert list(gates) == ['learned', 'random', 'edges', 'all fine', 'all coarse']
    assert all({'coco/bbox_mAP', 'coco/segm_mAP', 'backbone_gmacs'} <= set(row) for row in gates.values())
    assert gates['all fine']['num_tokens'] == 144 and gates['all coarse']['num_tokens'] == 36
    costs = {name: row['backbone_gmacs'] for name, row in gates.items()}
    assert costs['all coarse'] < costs['learned'] < costs['all fine']

    run('test', *network, '--work-dir', work, '--show-dir', tmp_path / 'shown', '--cfg-options', *options)
    run('visualize-gate', *network, tmp_path / 'coco/val2017', '--out-dir', tmp_path / 'maps')
    maps = list((tmp_path / 'maps').glob('*.png'))
    assert len(maps) == 4 and len(list((tmp_path / 'shown').rglob('test_img_gate_*.png'))) == 4
    for path in (*maps, tmp_path / 'gates/gates.png', *(tmp_path / 'shown').rglob('*.png')):
        assert cv2.imread(str(path)).std() > 10
    wanted = 'count: wanted a segmentor or a classifier, whose neck and head can be counted, got GatedMaskRCNN'
    assert wanted in fail('get-flops', *network, '--images', tmp_path / 'coco/val2017')
