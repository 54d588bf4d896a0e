"""The wheel, without the clone: configs by name, bases of the package, every command, types."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from msvit_cli import command_names

ROOT = Path(__file__).parents[2]
SMALL = [
    *(
        f'{split}_dataloader.{key}'
        for split in ('train', 'val')
        for key in ('num_workers=0', 'persistent_workers=False')
    ),
    *(f'{split}_dataloader.dataset.num_images=4' for split in ('train', 'val')),
    *('train_dataloader.batch_size=2', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2'),
]
ALL_HELP = """
import sys
from msvit_cli import command_names, main
for name in command_names():
    try:
        main([name, '--help'])
    except SystemExit as end:
        assert not end.code, name
assert 'torch' not in sys.modules
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """A folder with the installed wheel and nothing else of the clone."""
    target = tmp_path_factory.mktemp('wheel') / 'site'
    source = target.with_name('source')
    source.mkdir()
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'model-index.yml'):
        shutil.copy(ROOT / name, source)
    for name in ('configs', 'msvit_cli', 'msvit_mm', 'tools'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    options = ('--no-deps', '--no-build-isolation', '--no-warn-script-location', '--disable-pip-version-check')
    command = [sys.executable, '-m', 'pip', 'install', '-q', *options, '--target', str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture
def run(installed, tmp_path):
    """Run Python, or the ``msvit`` script, in an empty folder with the installed package first."""

    def call(*arguments):
        environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
        environment |= dict(PYTHONPATH=str(installed), CUDA_VISIBLE_DEVICES='-1')
        command = [sys.executable, *map(str, arguments)]
        process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
        assert process.returncode == 0, process.stderr
        return process.stdout

    return call


def test_files(installed):
    package = installed / 'msvit_mm'
    assert (package / 'py.typed').is_file() and (installed / 'msvit_cli' / 'arguments.py').is_file()
    for folder in ('configs', 'tools'):
        shipped = {path.relative_to(package / '.mim') for path in (package / '.mim' / folder).rglob('*.py')}
        assert shipped == {path.relative_to(ROOT) for path in (ROOT / folder).rglob('*.py')}
    assert 'configs/metafile.yml' in (package / '.mim' / 'model-index.yml').read_text()
    assert not (installed / 'configs').exists()


def test_train_by_name_and_by_base(run, installed, tmp_path):
    script = installed / 'bin' / 'msvit'
    run(script, 'train', 'msvit_upernet_scenes', '--work-dir', tmp_path / 'named', '--cfg-options', *SMALL)
    assert (tmp_path / 'named' / 'last_checkpoint').is_file()
    (tmp_path / 'mine.py').write_text("_base_ = 'msvit_mm::msvit_upernet_scenes.py'\n")
    run('-m', 'msvit_mm.cli', 'train', 'mine.py', '--work-dir', tmp_path / 'based', '--cfg-options', *SMALL)
    assert (tmp_path / 'based' / 'last_checkpoint').is_file()
    assert str(installed) in run('-c', 'import msvit_mm; print(msvit_mm.__file__)')


def test_help_of_every_command(run, installed):
    assert 'compare-gates' in run(installed / 'bin' / 'msvit', '--help')
    printed = run('-c', ALL_HELP)
    assert printed.count('usage: msvit ') == len(command_names())
