"""mim, where it is installed, trains a config of this package by mmsegmentation's own script."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_the_index_names_the_metafile():
    (listed,) = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    models = yaml.safe_load((ROOT / listed).read_text())['Models']
    assert models and all((ROOT / model['Config']).is_file() for model in models)


@pytest.mark.slow
def test_mim_trains(tmp_path):
    mim = shutil.which('mim')
    if mim is None:
        pytest.skip('no mim on this machine; pip install onedl-mim')
    few = ('train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.batch_size=2')
    for split in ('train', 'val'):
        few += (f'{split}_dataloader.num_workers=0', f'{split}_dataloader.persistent_workers=False')
        few += (f'{split}_dataloader.dataset.num_images=4',)
    call = (mim, 'train', 'mmseg', ROOT / 'configs' / 'msvit_upernet_scenes.py', '--launcher', 'none', '--gpus', '0')
    environment = os.environ | dict(PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='-1')
    arguments = map(str, (*call, '--work-dir', tmp_path, '--cfg-options', *few))
    subprocess.run(list(arguments), env=environment, check=True, timeout=1800)
    assert (tmp_path / 'iter_2.pth').is_file()
