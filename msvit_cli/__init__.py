"""The ``msvit`` command up to the point where the work begins: which command, and what it takes.

It lies beside ``msvit_mm``, since importing that package takes seconds: torch, the mm packages, all registered classes.
"""

import ast
import importlib
import signal
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from . import arguments

COMMANDS = Path(__file__).parents[1] / 'msvit_mm' / 'cli' / 'commands'
USAGE = """usage: msvit COMMAND ...

MSViT mixed-scale vision transformers. `msvit COMMAND --help` shows what a command takes.

commands:
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names, with the others."""
    command, *others = list(sys.argv[1:] if argv is None else argv) or ['--help']
    names = command_names()
    if command in ('-h', '--help'):
        print(USAGE + '\n'.join(f'  {_spell(name):20}{docstring(name).splitlines()[0]}' for name in names))
        return
    name = command.replace('-', '_')
    if name not in names:
        close = ', '.join(map(_spell, get_close_matches(name, names)))
        hint = f'close are {close}' if close else f'there are {", ".join(map(_spell, names))}'
        raise SystemExit(f"error: wanted a command, got '{command}'; {hint}.")
    run(name, others, prog=f'msvit {_spell(name)}')


def run(name: str, argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parse the arguments of a command, then import it and let it work.

    Args:
        name: Of its module.
        argv: Default those of the process.
        prog: What the help calls it; default the file that Python runs.
    """
    args = parse_args(name, argv, prog)
    try:
        importlib.import_module('msvit_mm.cli.main').run_command(name, args)
    except KeyboardInterrupt:
        print('error: interrupted; what was complete before is as it was.', file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def parse_args(name: str, argv: Sequence[str] | None = None, prog: str | None = None) -> Namespace:
    """The arguments of a command, which is not imported for it."""
    parser = ArgumentParser(prog, description=docstring(name), formatter_class=RawDescriptionHelpFormatter)
    getattr(arguments, f'add_{name}')(parser)
    return parser.parse_args(argv)


def command_names() -> list[str]:
    """Names of the modules of all commands."""
    return sorted(file.stem for file in COMMANDS.glob('[!_]*.py'))


def docstring(name: str) -> str:
    """That of a command."""
    return ast.get_docstring(ast.parse((COMMANDS / f'{name}.py').read_text(encoding='utf-8'))) or ''


def _spell(name: str) -> str:
    return name.replace('_', '-')
