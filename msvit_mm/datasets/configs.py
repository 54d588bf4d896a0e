"""Read data set configs: the names of their types, what lies below wrappers, and the files of their folders."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def type_name(config: Mapping[str, Any]) -> str:
    """The bare name of a config's type, which may be scoped or, in pure-Python configs, the class itself.

    Example:
        >>> type_name(dict(type='mmseg.LoadAnnotations')), type_name(dict(type=dict))
        ('LoadAnnotations', 'dict')
    """
    named = config.get('type', '') if isinstance(config, Mapping) else ''
    return str(getattr(named, '__name__', named)).rpartition('.')[2]


def leaf_datasets(config: Any) -> list[Any]:
    """The configs of the data sets below wrappers such as ``RepeatDataset`` and ``ConcatDataset``, in their order.

    Example:
        >>> leaves = [dict(type='ADE20KDataset'), dict(type='CityscapesDataset')]
        >>> leaf_datasets(dict(type='ConcatDataset', datasets=leaves)) == leaves
        True
    """
    below = config.get('datasets') or ([config['dataset']] if config.get('dataset') else [])
    return [leaf for one in below for leaf in leaf_datasets(one)] if below else [config]


def datasets_of(cfg: Any, split: str) -> list[Any]:
    """The configs of a split's data sets (train, val or test), below wrappers; an empty one if there is none."""
    return leaf_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset') or {})


def entries_below(folder: Path) -> Iterator[Path]:
    """What lies below a folder, files and folders, those in linked folders included, as the hosts list them."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(root, name) for name in sorted([*files, *folders]))
