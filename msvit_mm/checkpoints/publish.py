"""Publish the checkpoint of a run: weights, config and metrics, their hash in the name, and an entry of a metafile.

What is published is passive: tensors, numbers and text, which any restricted loader reads. The config is kept as the
text that the run printed, with the paths in it.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml
from mmengine.config import Config

from ..backbones.base import HostModel
from ..datasets.configs import datasets_of, type_name
from .kept import line_of, parse_config
from .loading import _first, carry_metadata, check_coverage, check_finite, check_shapes, load_checkpoint_safely
from .names import check_names

META = ('cfg', 'dataset_meta', 'epoch', 'iter', 'seed', 'experiment_name', 'time', 'mmengine_version')
TIMES = ('time', 'data_time')


def load_kept_config(path: str | PathLike) -> Config:
    """The config that a checkpoint keeps, for the hosts' inferencers; nothing in the file is executed.

    mmengine would call whatever importable name a config gives as a ``type``. Here it must be registered by msvit_mm or
    a host, so that building the config runs their code and no other. Config *files* are code, and have no such check.

    Raises:
        ValueError: If the file is no checkpoint that may be loaded, keeps no config, or one that names anything else.
    """
    config = parse_config(kept_text(load_checkpoint_safely(path), path))
    check_names(config)
    return Config(config)


def kept_text(checkpoint: Mapping[str, Any], path: str | PathLike) -> str:
    """The text of the config in a checkpoint.

    Raises:
        ValueError: If there is none.
    """
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, dict) else None
    if not isinstance(text, str):
        got = f'the keys {_first(meta) or "of an empty dict"}' if isinstance(meta, dict) else _first(checkpoint)
        raise ValueError(f"checkpoint '{path}': wanted one of a training run, with its config in 'meta', got {got}.")
    return text


def check_trained_as(cfg: Config, model: HostModel, checkpoint: Mapping[str, Any], path: str | PathLike) -> None:
    """Check that a config describes the model of a checkpoint, and that the weights are those of this model, no others.

    Raises:
        ValueError: If the checkpoint keeps another model config, or names or shapes of weights differ.
    """
    got, wanted = (parse_config(text).get('model', {}) for text in (cfg.pretty_text, kept_text(checkpoint, path)))
    if got != wanted:
        differing = sorted(key for key in {*got, *wanted} if got.get(key) != wanted.get(key))
        raise ValueError(
            f"config '{cfg.filename}': wanted the model of the checkpoint's run, got one that differs in "
            f'{_first(differing)}; the config in the work directory of the run is the right one.'
        )
    state, weights = model.state_dict(), checkpoint['state_dict']
    check_coverage(state, weights)
    check_shapes(state, weights)
    check_finite(weights)
    if unexpected := [key for key in weights if key.removeprefix('module.') not in state]:
        raise ValueError(f"checkpoint '{path}': wanted weights of the config's model alone, got {_first(unexpected)}.")


def find_metrics(checkpoint: Mapping[str, Any], path: str | PathLike, unit: str) -> dict[str, float]:
    """Validation metrics of exactly these weights, or none.

    They are those that the file has been published with; else those in its message hub, if its best-score fields name
    this very step, since the hub of other checkpoints holds the metrics of an earlier one; else those that the
    run which wrote the file logged at this step, in its folder beside the file.

    Args:
        checkpoint: As loaded from ``path``.
        unit: In which the run counts: ``'iter'`` or ``'epoch'``.
    """
    meta, hub = checkpoint.get('meta') or {}, checkpoint.get('message_hub') or {}
    step = meta.get(unit)
    best = [str(value) for key, value in hub.get('runtime_info', {}).items() if str(key).startswith('best_ckpt')]
    scalars = hub.get('log_scalars', {})
    if isinstance(meta.get('metrics'), dict):
        found = meta['metrics']
    elif any(re.search(rf'_{unit}_{step}\.pth$', name) for name in best):
        found = {key[4:]: buffer.current() for key, buffer in scalars.items() if str(key).startswith('val/')}
    else:
        found = _logged_metrics(Path(path), str(meta.get('experiment_name', '')), step)
    numbers = {name: float(number) for name, number in found.items() if name not in TIMES and _is_number(number)}
    return {name: number for name, number in numbers.items() if math.isfinite(number)}


def _logged_metrics(path: Path, experiment: str, step: Any) -> dict[str, float]:
    run = re.search(r'\d{8}_\d{6}$', experiment)  # names the run's folder
    log = path.parent / (run.group() if run else '') / 'vis_data' / 'scalars.json'
    text = log.read_text() if run and log.is_file() else ''
    lines = [
        json.loads(line) for line in text.splitlines(keepends=True) if line.endswith('\n')
    ]  # a kill halves the last
    # training lines count iterations, validation lines are timed as well
    lines = [line for line in lines if line.get('step') == step and 'iter' not in line and 'data_time' in line]
    return {name: number for name, number in lines[-1].items() if name != 'step'} if lines else {}


def strip_checkpoint(checkpoint: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """What predicting needs: the weights, averaged ones if the run kept an average, and plain meta information.

    ``meta`` keeps the config as text, the data set's classes and palette, iteration, epoch, seed, time and name of the
    run, and gets the metrics. Optimizer, schedules, message hub and the weights behind an average go.
    """
    kept = checkpoint.get('meta') or {}
    meta = {name: _plain(kept[name]) for name in META if name in kept}
    weights = {key.removeprefix('module.'): tensor for key, tensor in checkpoint['state_dict'].items()}
    return dict(meta=meta | dict(metrics=dict(metrics)), state_dict=carry_metadata(weights, checkpoint['state_dict']))


def hashed_name(path: Path, content: bytes) -> Path:
    """Insert the first 8 digits of a file's SHA-256 into its name, where torch.hub looks for them.

    Example:
        >>> hashed_name(Path('zoo/scenes.pth'), b'').name
        'scenes-e3b0c442.pth'
    """
    return path.with_name(f'{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth')


def describe_model(
    name: str, weights: str, cfg: Config, config: str, model: HostModel, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """A model's entry in a metafile, of what the checkpoint itself says.

    ``FLOPs`` are the mean multiply-adds per validation image (1 MAC = 1 FLOP, as the papers count).

    Args:
        weights: Name of the published file.
        config: Path of the config.
        meta: Of the published checkpoint.
    """
    metrics = {key: float(f'{value:.6g}') for key, value in meta['metrics'].items()}
    unit = step_unit(cfg)
    about: dict[str, Any] = {'Training Data': _dataset_name(cfg, 'train')}
    about[dict(iter='Iterations', epoch='Epochs')[unit]] = meta.get(unit)
    if 'gmacs' in metrics:
        about['FLOPs'] = round(metrics['gmacs'] * 1e9)
    about['Parameters'] = sum(parameter.numel() for parameter in model.parameters())
    entry = {'Name': name, 'In Collection': model.backbone.collection, 'Config': config, 'Metadata': about}
    if metrics:
        parts = dict(decode_head='Semantic Segmentation', roi_head='Instance Segmentation')
        task = next((task for part, task in parts.items() if hasattr(model, part)), 'Image Classification')
        entry['Results'] = [dict(Task=task, Dataset=_dataset_name(cfg, 'val'), Metrics=metrics)]
    return entry | dict(Weights=weights)


def update_metafile(
    path: Path, entry: Mapping[str, Any], overwrite: bool, paper: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The text of a metafile with this model in it, beside the models that it holds already.

    Raises:
        ValueError: If the file is no metafile, or has another model of this name and not ``overwrite``.
    """
    try:
        content = yaml.safe_load(path.read_text()) if path.exists() else {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"metafile '{path}': wanted YAML, got {line_of(error)}.") from None
    sections: list[Any] = (
        [content.setdefault(key, []) for key in ('Collections', 'Models')] if isinstance(content, dict) else [0]
    )
    if not all(isinstance(section, list) and all(isinstance(item, dict) for item in section) for section in sections):
        raise ValueError(f"metafile '{path}': wanted lists of Collections and Models, got something else.")
    collections, models = sections
    name = entry['In Collection']
    if name not in [collection.get('Name') for collection in collections]:
        collections.append(dict(Name=name, Paper=dict(paper)))
    place = next((i for i, model in enumerate(models) if model.get('Name') == entry['Name']), None)
    if place is None:
        models.append(dict(entry))
    elif overwrite:
        models[place] = dict(entry)
    else:
        raise ValueError(
            f"metafile '{path}': wanted a new model, got '{entry['Name']}' again; --overwrite replaces its entry."
        )
    return yaml.safe_dump(content, sort_keys=False)


def step_unit(cfg: Config) -> str:
    """In what a config's training counts its steps: ``'iter'`` or ``'epoch'``."""
    loop = cfg.get('train_cfg') or {}
    return 'epoch' if loop.get('by_epoch') or type_name(loop) == 'EpochBasedTrainLoop' else 'iter'


def _dataset_name(cfg: Config, split: str) -> str:
    names = (type_name(dataset) for dataset in datasets_of(cfg, split))
    return ', '.join(dict.fromkeys(name.removesuffix('Dataset') for name in names))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value
