"""Read data set configs: the names of their types, and what lies below wrappers."""

from collections.abc import Mapping
from typing import Any


def type_name(config: Mapping[str, Any]) -> str:
    """The bare name of a config's type, which may be scoped or, in pure-Python configs, the class itself.

    Example:
        >>> type_name(dict(type='mmseg.LoadAnnotations')), type_name(dict(type=dict))
        ('LoadAnnotations', 'dict')
    """
    named = config.get('type', '')
    return str(getattr(named, '__name__', named)).rpartition('.')[2]


def leaf_datasets(config: Mapping[str, Any]) -> list[dict]:
    """The data sets below wrappers such as ``RepeatDataset`` and ``ConcatDataset``, in their order.

    Example:
        >>> leaves = [dict(type='ADE20KDataset'), dict(type='CityscapesDataset')]
        >>> leaf_datasets(dict(type='ConcatDataset', datasets=leaves)) == leaves
        True
    """
    below = config.get('datasets') or ([config['dataset']] if config.get('dataset') else [])
    return [leaf for one in below for leaf in leaf_datasets(one)] if below else [dict(config)]
