"""Every command has a thin door in tools/, with the same docstring but for the call."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

import msvit_mm.cli.commands

TOOLS = Path(__file__).parents[2] / 'tools'
COMMANDS = sorted(path.stem for path in Path(msvit_mm.cli.commands.__file__).parent.glob('[!_]*.py'))


def docstring(path):
    return ast.get_docstring(ast.parse(path.read_text()))


def test_every_command_has_a_door():
    assert len(COMMANDS) == 17
    assert sorted(path.stem for path in TOOLS.glob('*.py')) == sorted([*COMMANDS, 'benchmark_peers'])


@pytest.mark.parametrize('name', COMMANDS)
def test_door_opens_its_command(monkeypatch, capsys, name):
    door = TOOLS / f'{name}.py'
    command = Path(msvit_mm.cli.commands.__file__).with_name(f'{name}.py')
    call = f'msvit {name.replace("_", "-")} '
    assert docstring(command).count(call) == 1
    assert docstring(door) == docstring(command).replace(call, f'python tools/{name}.py ')
    monkeypatch.setattr(sys, 'argv', [str(door), '--help'])
    with pytest.raises(SystemExit, match='^0$'):
        runpy.run_path(str(door), run_name='__main__')
    printed = capsys.readouterr().out
    assert printed.startswith(f'usage: {name}.py ')


@pytest.mark.parametrize('folder', ['tools', 'tools/peers', 'msvit_mm/cli/commands'])
def test_files_are_short(folder):
    lengths = {path.name: len(path.read_text().splitlines()) for path in (TOOLS.parent / folder).glob('*.py')}
    assert lengths
    assert all(length <= 120 for length in lengths.values()), lengths
