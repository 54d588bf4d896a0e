"""Configs of other kinds: pure Python, data sets below wrappers, a subset of the classes."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

PURE = Path(__file__).with_name('pure_config.py')
SCENES = Path(__file__).parents[2] / 'configs' / 'msvit_upernet_scenes.py'


@pytest.fixture(scope='module')
def wrapped(tmp_path_factory):
    """A config whose data sets stand below wrappers, and a checkpoint that keeps it."""
    folder = tmp_path_factory.mktemp('wrapped')
    base = Config.fromfile(SCENES)
    train, test = base.train_dataloader.dataset.to_dict(), base.test_dataloader.dataset.to_dict()
    few, seen = train | dict(num_images=3), test | dict(num_images=2)
    repeated = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[few, few]))
    config = folder / 'wrapped.py'
    config.write_text(
        f'_base_ = {str(SCENES)!r}\n'
        f'train_dataloader = dict(dataset=dict(_delete_=True, **{repeated}))\n'
        f"test_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets={[seen, seen]}))\n"
    )
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(base.model)
    torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)
    meta = dict(cfg=Config.fromfile(config).pretty_text)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'a.pth')
    return config, folder / 'a.pth'


@pytest.mark.slow
def test_data_below_wrappers(run, wrapped, write_photos, tmp_path):
    config, checkpoint = wrapped
    printed = run('check-dataset', config, '--split', 'train')
    assert 'train: 6 of 6 images' in printed
    run('calibrate-gate', config, checkpoint, tmp_path / 'out.pth', '--coarse-ratio', 0.5)
    report = json.loads((tmp_path / 'out.json').read_text())
    assert report['num_images'] == 6 and report['after']['coarse_ratio'] == pytest.approx(0.5, abs=0.02)
    run('predict', checkpoint, write_photos(a_png=(40, 60)), '--out-dir', tmp_path / 'out')
    assert (tmp_path / 'out' / 'a_labels.png').is_file()
    options = [f'test_dataloader.{word}' for word in ('num_workers=0', 'persistent_workers=False')]
    printed = run('test', config, checkpoint, '--work-dir', tmp_path / 'w', '--tta', '--cfg-options', *options)
    assert 'mIoU' in printed


def test_pure_python(run, toy_data, tmp_path):
    options = [f'{split}_dataloader.dataset.data_root={toy_data}' for split in ('val', 'test')]
    options += [f'train_dataloader.dataset.datasets.{i}.data_root={toy_data}' for i in (0, 1)]
    run('train', PURE, '--work-dir', tmp_path / 'w', '--cfg-options', *options)
    checkpoint = tmp_path / 'w' / 'iter_2.pth'
    arguments = 'test', PURE, checkpoint, '--work-dir', tmp_path / 'w', '--out', tmp_path / 'out'
    assert 'mIoU' in run(*arguments, '--cfg-options', *options)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [f'{i}.png' for i in range(4)]
    assert 'train: 8 of 8 images' in run('check-dataset', PURE, '--split', 'train', '--cfg-options', *options)
    run('predict', checkpoint, toy_data / 'images', '--config', PURE, '--out-dir', tmp_path / 'p')
    assert len(list((tmp_path / 'p').iterdir())) == 8


@pytest.mark.slow
def test_a_subset_of_the_classes(run, tmp_path):
    """Scenes' classes that are left out count for nothing, in training and testing."""
    config = tmp_path / 'subset.py'
    names = 'train_dataloader', 'val_dataloader', 'test_dataloader'
    subset = dict(dataset=dict(num_images=4, metainfo=dict(classes=('plain', 'disc'))), batch_size=2)
    subset |= dict(num_workers=0, persistent_workers=False)
    heads = 'dict(num_classes=2, loss_decode=dict(class_weight=[1.0, 3.0]))'
    config.write_text(
        f'_base_ = {str(SCENES)!r}\nmodel = dict(decode_head={heads})\n'
        f'train_cfg = dict(max_iters=2, val_interval=2)\n' + ''.join(f'{name} = {subset}\n' for name in names)
    )
    options = [f'{name}.dataset.pipeline.2.num_classes=2' for name in names]
    run('train', config, '--work-dir', tmp_path / 'w', '--cfg-options', *options)
    printed = run(
        'test', config, tmp_path / 'w' / 'iter_2.pth', '--work-dir', tmp_path / 'w', '--cfg-options', *options
    )
    assert 'mIoU' in printed and 'auc' in printed
