"""train.py and test.py on the classifiers: scenes, and ImageNet's folders of generated images."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from msvit_mm.cli.images import check_data

CONFIGS = Path(__file__).parents[2] / 'configs'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
SMALL = [
    f'{loader}.{key}' for loader in LOADERS for key in ('num_workers=0', 'persistent_workers=False', 'batch_size=4')
]


def train_and_test(run, config, work_dir, checkpoint, options):
    """Run both commands; return the metrics that testing wrote, and its last line."""
    options = ('--work-dir', work_dir, '--cfg-options', *SMALL, *options)
    run('train', config, *options)
    printed = run('test', config, work_dir / checkpoint, '--show-dir', work_dir / 'shown', *options)
    assert len(list((work_dir / 'shown').rglob('*.png'))) == 1
    written = [json.loads(path.read_text()) for path in sorted(work_dir.glob('2*/2*.json'))]
    return written[-1], printed.splitlines()[-1]


def test_scenes(run, tmp_path):
    options = [f'{loader}.dataset.num_images=8' for loader in LOADERS]
    options += ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2']
    config = CONFIGS / 'msvit_classifier_scenes.py'
    metrics, line = train_and_test(run, config, tmp_path, 'iter_2.pth', options)
    assert 0 <= metrics['multi-label/mAP'] <= 100
    assert all(name in line for name in ('multi-label/mAP', 'multi-label/f1-score', 'num_tokens', 'gmacs'))


@pytest.mark.slow
def test_imagenet(run, imagenet_root, tmp_path):
    options = [f'{loader}.dataset.{key}' for loader in LOADERS for key in (f'data_root={imagenet_root}', 'indices=8')]
    options += [
        'train_cfg.max_epochs=1',
        'model.backbone.arch=deit-tiny',
        'model.head.in_channels=192',
        'model.backbone.init_cfg=None',
    ]
    config = CONFIGS / 'msvit_classifier_imagenet.py'
    metrics, line = train_and_test(run, config, tmp_path, 'epoch_1.pth', options)
    assert 0 <= metrics['accuracy/top1'] <= metrics['accuracy/top5'] <= 100
    assert 49 <= metrics['num_tokens'] <= 196
    assert metrics['gmacs'] > metrics['backbone_gmacs'] > 0
    assert all(name in line for name in ('accuracy/top1', 'num_tokens', 'gmacs'))


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_missing_imagenet_is_told_in_one_line(split):
    cfg = Config.fromfile(CONFIGS / 'msvit_classifier_imagenet.py')
    cfg[f'{split}_dataloader'].dataset.data_root = '/nowhere'
    with pytest.raises(ValueError, match=f"{split} data: wanted files in '/nowhere/(train|val)', got no such folder"):
        check_data(cfg, split)
