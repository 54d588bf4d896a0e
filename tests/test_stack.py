import importlib.util
import subprocess
import sys
import warnings
from importlib import metadata

import pytest

from msvit_mm.stack import check_stack, quiet_imports


@pytest.fixture
def installed(monkeypatch):
    """Set the distributions and import names that are to be found."""

    def pretend(distributions, names=('mmengine', 'mmcv', 'mmseg', 'mmpretrain')):
        def distribution(name):
            if name not in distributions:
                raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, 'distribution', distribution)
        monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name if name in names else None)

    return pretend


FORK = ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation', 'onedl-mmpretrain']


def test_complete_stack(installed):
    installed(FORK)
    check_stack()


def test_missing_package_names_its_distribution(installed):
    installed(FORK[:3], ['mmengine', 'mmcv', 'mmseg'])
    with pytest.raises(ImportError, match='needs mmpretrain; install with `pip install onedl-mmpretrain`'):
        check_stack()


def test_missing_package_of_the_upstream_stack(installed):
    installed(['mmengine', 'mmcv'], ['mmengine', 'mmcv'])
    with pytest.raises(ImportError, match='needs mmseg, mmpretrain; .* `pip install mmsegmentation mmpretrain`'):
        check_stack()


def test_doubled_package(installed):
    installed([*FORK, 'mmengine'])
    with pytest.warns(
        UserWarning, match='mmengine is installed twice.* `pip uninstall -y mmengine && pip install .* onedl-mmengine`'
    ):
        check_stack()


def test_quiet_imports(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with quiet_imports():
            print('Could not import OneDL')
            print('something else')
            warnings.warn('Fail to import ``MultiScaleDeformableAttention`` from mmcv.ops', stacklevel=1)
    assert capsys.readouterr().out == 'something else\n'


def test_the_command_without_the_mm_packages():
    code = "import sys; sys.modules['mmengine'] = None; import msvit_cli; msvit_cli.main(['--help'])"
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: msvit needs mmengine and the other mm packages; install with `pip install 'msvit_mm[onedl]'`.\n"
    )
