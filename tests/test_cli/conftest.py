import contextlib
import io
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.runner import CheckpointLoader
from mmengine.utils import ManagerMixin
from PIL import Image

from msvit_cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def toy_config():
    return str(Path(__file__).with_name('toy_config.py'))


@pytest.fixture(scope='session')
def toy_data(tmp_path_factory):
    """A folder with the toy dataset."""
    root = tmp_path_factory.mktemp('toy')
    generator = np.random.default_rng(0)
    for folder in ('images', 'labels'):
        (root / folder).mkdir()
    for index in range(4):
        label = np.zeros((32, 48), np.uint8)
        label[8:24, 4 * index : 4 * index + 16] = 1
        image = (label[..., None] * 150 + generator.integers(0, 100, (32, 48, 3))).astype(np.uint8)
        Image.fromarray(image).save(root / 'images' / f'{index}.png')
        Image.fromarray(label).save(root / 'labels' / f'{index}.png')
    return root


def managers(cls=ManagerMixin):
    """Loggers, visualizers, message hubs and scopes: the classes whose instances mmengine keeps by name."""
    return [cls, *(below for direct in cls.__subclasses__() for below in managers(direct))]


@contextlib.contextmanager
def like_a_new_process(toy_data):
    """What mmengine keeps for the life of a process is empty, and afterwards what it was."""
    with pytest.MonkeyPatch.context() as patch:
        for cls in managers():
            patch.setattr(cls, '_instance_dict', OrderedDict())
        patch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
        patch.setattr(sys, 'argv', ['msvit'])
        patch.setenv('TOY_DATA', str(toy_data))
        patch.setenv('CUDA_VISIBLE_DEVICES', '-1')
        yield


@pytest.fixture(scope='session')
def run(toy_data):
    """Run a command in this process and return what it printed on stdout."""

    def call(command, *arguments):
        printed = io.StringIO()
        with like_a_new_process(toy_data), contextlib.redirect_stdout(printed):
            main([command, *map(str, arguments)])
        return printed.getvalue()

    return call


@pytest.fixture(scope='session')
def fail(run):
    """Run a command and return the one line of error that it ends with."""

    def call(command, *arguments):
        with pytest.raises(SystemExit) as exit_info:
            run(command, *arguments)
        message = str(exit_info.value)
        assert message.startswith('error: ') and '\n' not in message
        return message

    return call


@pytest.fixture(scope='session')
def run_script(toy_data):
    """Run a bash script of ``tools/`` and return the finished process with its output as text."""

    def call(script, *arguments):
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
        environment = dict(TOY_DATA=str(toy_data), CUDA_VISIBLE_DEVICES='-1', PYTHONPATH=paths, PYTHON=sys.executable)
        command = ['bash', str(ROOT / 'tools' / script), *map(str, arguments)]
        return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=1800)

    return call


@pytest.fixture(scope='session')
def trained(run, toy_config, tmp_path_factory):
    """Work directory of a finished toy training of two iterations."""
    work_dir = tmp_path_factory.mktemp('trained')
    run('train', toy_config, '--work-dir', work_dir, '--auto-scale-lr')
    return work_dir


@pytest.fixture
def write_photos(tmp_path):
    """Write images of noise of these sizes, (height, width) by name, and return their folder."""

    def write(**sizes):
        for name, size in sizes.items():
            path = tmp_path / 'photos' / name.replace('_', '.')
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
        return tmp_path / 'photos'

    return write
