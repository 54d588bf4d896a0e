"""The ``msvit`` command: one subcommand for each module of :mod:`msvit_mm.cli.commands`."""

import ast
import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

FOLDER = Path(__file__).with_name('commands')
USAGE = """usage: msvit COMMAND ...

MSViT mixed-scale vision transformers. `msvit COMMAND --help` shows what a command takes.

commands:
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names, with the others."""
    command, *others = list(sys.argv[1:] if argv is None else argv) or ['--help']
    names = sorted(file.stem for file in FOLDER.glob('[!_]*.py'))
    if command in ('-h', '--help'):
        print(USAGE + '\n'.join(f'  {_spell(name):20}{_first_line(name)}' for name in names))
        return
    name = command.replace('-', '_')
    if name not in names:
        close = ', '.join(map(_spell, get_close_matches(name, names)))
        hint = f'close are {close}' if close else f'there are {", ".join(map(_spell, names))}'
        raise SystemExit(f"error: wanted a command, got '{command}'; {hint}.")
    sys.argv = [f'msvit {_spell(name)}', *others]  # whose first item argparse shows as the program
    importlib.import_module(f'.commands.{name}', __package__).main(others)


def _spell(name: str) -> str:
    return name.replace('_', '-')


def _first_line(name: str) -> str:
    """Of the docstring of a command, which is not imported for it."""
    text = ast.get_docstring(ast.parse((FOLDER / f'{name}.py').read_text(encoding='utf-8')))
    return (text or '').partition('\n')[0]
