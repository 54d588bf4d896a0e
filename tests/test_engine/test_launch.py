from argparse import Namespace
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.fileio import LocalBackend

from msvit_mm.engine import launch


def arguments(config, **options):
    return Namespace(**{'config': str(config), 'launcher': 'none', 'cfg_options': None, 'work_dir': None} | options)


def test_load_config(tmp_path):
    path = tmp_path / 'small_model.py'
    path.write_text("_base_ = 'mmseg::_base_/default_runtime.py'\n")
    cfg = launch.load_config(arguments(path, cfg_options={'log_level': 'ERROR'}))
    assert cfg.default_scope == 'mmseg'
    assert cfg.log_level == 'ERROR'
    assert cfg.work_dir == 'work_dirs/small_model'
    assert launch.load_config(arguments(path, work_dir='elsewhere')).work_dir == 'elsewhere'


@pytest.mark.parametrize(
    'device, options, message',
    [
        ('cpu', dict(optim_wrapper=dict(type='AmpOptimWrapper')), "mixed precision: wanted a device of cuda.*'cpu'"),
        ('cpu', dict(device='cuda:0'), "wanted 'cuda:0', got 'cpu'"),
        ('cuda', dict(device='cpu'), "wanted 'cpu', got 'cuda'"),
        ('cpu', dict(launcher='mpi'), 'wanted GPUs, got none'),
        ('cuda', dict(launcher='pytorch'), 'wanted a GPU for local rank 2, got 2 GPUs'),
    ],
)
def test_machine_lacks_what_is_wanted(monkeypatch, device, options, message):
    monkeypatch.setattr(launch, 'get_device', lambda: device)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    for name in launch.RENDEZVOUS:
        monkeypatch.setenv(name, '2')
    cfg = Config(dict(launcher='none', optim_wrapper=dict(type='OptimWrapper')))
    launch.check_machine(cfg, train=True)
    cfg.merge_from_dict(options)
    with pytest.raises(ValueError, match=message):
        launch.check_machine(cfg, train=True)


def test_amp_on_a_gpu(monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    launch.check_machine(Config(dict(launcher='none', optim_wrapper=dict(type='AmpOptimWrapper'))), train=True)


@pytest.mark.parametrize(('folder', 'got'), [('absent', 'no such folder'), ('empty', 'an empty folder')])
def test_folder_without_data(tmp_path, folder, got):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'image.png').touch()
    dataset = dict(data_root=str(tmp_path), data_prefix=dict(img_path='full', seg_map_path=folder))
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dataset)), val_dataloader=None))
    launch.check_data(cfg, 'val')
    with pytest.raises(ValueError, match=f"train data: wanted files in '.*{folder}', got {got}"):
        launch.check_data(cfg, 'train', 'val')


def test_sync_bn_is_replaced_everywhere():
    model = Config(
        dict(model=dict(norm=dict(type='SyncBN'), heads=[dict(norm=dict(type='SyncBN', eps=1e-3)), None]))
    ).model
    launch._replace_sync_bn(model)
    assert model.norm.type == 'BN'
    assert model.heads[0].norm == dict(type='BN', eps=1e-3)


def test_interrupted_save_keeps_the_older_file(tmp_path, monkeypatch):
    backend = launch._AtomicLocalBackend()
    path = tmp_path / 'iter_2.pth'
    backend.put(b'first', path)
    assert [file.name for file in tmp_path.iterdir()] == ['iter_2.pth']

    def half(self, obj, filepath):
        Path(filepath).write_bytes(obj[:2])
        raise OSError('disk full')

    monkeypatch.setattr(LocalBackend, 'put', half)
    with pytest.raises(OSError, match='disk full'):
        backend.put(b'second', path)
    assert path.read_bytes() == b'first'
