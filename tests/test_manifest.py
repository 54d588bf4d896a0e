"""The source distribution holds what the repository holds."""

import subprocess
from pathlib import Path

import pytest
from setuptools.command.egg_info import FileList

ROOT = Path(__file__).parents[1]
UNASKED = {'MANIFEST.in', 'pyproject.toml', 'setup.py'}  # what setuptools adds, with the packages' modules
PACKAGES = ('msvit_cli/', 'msvit_mm/')


def test_every_tracked_file_is_in_the_source_distribution(monkeypatch):
    monkeypatch.chdir(ROOT)
    git = subprocess.run(['git', 'ls-files'], capture_output=True, text=True)
    if git.returncode:
        pytest.skip('no clone of git')
    chosen = FileList()
    for line in (ROOT / 'MANIFEST.in').read_text().splitlines():
        chosen.process_template_line(line)
    tracked = set(git.stdout.splitlines())
    modules = {name for name in tracked if name.startswith(PACKAGES) and name.endswith(('.py', 'py.typed'))}
    assert len(tracked) > 500
    assert sorted(tracked - modules - UNASKED - set(chosen.files)) == []
