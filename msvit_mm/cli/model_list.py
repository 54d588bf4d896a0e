"""Models that a command is given by name, config and checkpoint: on the command line, and in a list file."""

from argparse import Namespace
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import yaml

from ..studies.sweep import SWEEPS

WANTED = ('name', 'config', 'checkpoint')


def read_models(args: Namespace) -> list[dict]:
    """Name, config, checkpoint and sweeps of each model, from ``args.models`` and from the file ``args.list``.

    Raises:
        ValueError: If there is none, one is not so described, two have one name, or sweeps are for none.
    """
    if (args.time_images or args.threads) and not args.time:
        raise ValueError('--time-images, --threads: wanted --time ROUNDS beside them, got none.')
    sweeps = {name: getattr(args, name) for name in SWEEPS}
    models = [dict(name=name, config=config, checkpoint=path, **sweeps) for name, config, path in args.models]
    if args.list:
        models += [{name: [] for name in SWEEPS} | model for model in read_list(args.list)]
    if not models:
        raise ValueError('wanted at least one --model, or a --list of them, got none.')
    if not args.models and any(sweeps.values()):
        raise ValueError('wanted a --model for the sweeps, got a --list alone, whose models have their own.')
    for model in models:
        check_ratios(model)
    names = [model['name'] for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f'models: wanted each name once, got {names}.')
    return models


def check_ratios(model: Mapping[str, Any]) -> None:
    """Check that ratios of a model's sweeps are ratios.

    Raises:
        ValueError: If one is not.
    """
    for name in ('coarse_ratios', 'random', 'edges'):
        if wrong := [value for value in model[name] if not 0 <= value <= 1]:
            raise ValueError(f"model '{model['name']}': wanted {name} in [0, 1], got {wrong[0]:g}.")


def input_files(models: Iterable[dict]) -> list[str]:
    """Configs and checkpoints of the models."""
    return [model[name] for model in models for name in ('config', 'checkpoint')]


def read_list(path: str) -> list[dict]:
    """The models of a YAML or JSON file.

    Raises:
        ValueError: If it is something else.
    """
    if not Path(path).is_file():
        raise ValueError(f"--list '{path}': wanted a file, got none.")
    try:
        listed = yaml.safe_load(Path(path).read_text())  # reads JSON too
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--list '{path}': wanted YAML or JSON, got {str(error).splitlines()[0]}.") from None
    listed = listed if isinstance(listed, list) else [listed]
    for model in listed:
        check_model(model)
    return listed


def check_model(model: dict) -> None:
    """Check an item of the list.

    Raises:
        ValueError: If it does not say what it has to, or anything else.
    """
    texts = isinstance(model, dict) and all(isinstance(model.get(key), str) for key in WANTED)
    if not texts or set(model) - {*WANTED, *SWEEPS}:
        raise ValueError(f'--list: wanted items of {", ".join(WANTED)} and, if any, {", ".join(SWEEPS)}, got {model}.')
    for name in SWEEPS:
        values = model.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, Real) for value in values):
            raise ValueError(f"--list, '{model['name']}': wanted a list of numbers as {name}, got {values}.")
