"""Run a command of :mod:`msvit_mm.cli.commands` with the arguments that :mod:`msvit_cli` has parsed."""

import importlib
from argparse import Namespace

from .machine import choose_device


def run_command(name: str, args: Namespace) -> None:
    """Import a command and run it, ``--device auto`` resolved.

    Args:
        name: Of its module.
        args: Its arguments.
    """
    if 'device' in args:
        args.device = choose_device(args.device)
    importlib.import_module(f'.commands.{name}', __package__).main(args)
