import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def toy_config():
    return str(Path(__file__).with_name('toy_config.py'))


@pytest.fixture(scope='session')
def toy_environment(tmp_path_factory):
    """Environment variables of a tool on the toy dataset, on the CPU."""
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
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    return os.environ | dict(
        TOY_DATA=str(root),
        CUDA_VISIBLE_DEVICES='-1',
        PYTHONPATH=os.pathsep.join(filter(None, paths)),
        PYTHON=sys.executable,
    )


@pytest.fixture(scope='session')
def run_tool(toy_environment):
    """Run a command of `tools/` and return the finished process with its output as text."""

    def run(tool, *arguments):
        program = ['bash'] if tool.endswith('.sh') else [sys.executable]
        command = [*program, str(ROOT / 'tools' / tool), *map(str, arguments)]
        return subprocess.run(command, env=toy_environment, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope='session')
def trained(run_tool, toy_config, tmp_path_factory):
    """Work directory of a finished toy training of two iterations."""
    work_dir = tmp_path_factory.mktemp('trained')
    process = run_tool('train.py', toy_config, '--work-dir', work_dir, '--auto-scale-lr')
    assert process.returncode == 0, process.stderr
    assert 'Could not import OneDL' not in process.stdout
    assert 'MultiScaleDeformableAttention' not in process.stderr
    return work_dir
