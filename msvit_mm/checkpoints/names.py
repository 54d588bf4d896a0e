"""Check the names in a config that comes from elsewhere: what building it calls must be registered."""

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from mmengine import registry
from mmengine.registry import Registry

# Packages whose registered names a config may use; mmdet need not be there.
SCOPES = ('mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'mmdet')
OWN = 'msvit_mm'


def check_names(config: Mapping[str, Any], where: str = 'config') -> None:
    """Check that every ``type`` of a config is registered, and that it imports nothing but known packages.

    Args:
        where: Begins the message.

    Raises:
        ValueError: If not.

    Example:
        >>> check_names(dict(model=dict(type='MSViT', norm_cfg=dict(type='LN'))))
        >>> check_names(dict(model=dict(type='os.system', command='ls')))
        Traceback (most recent call last):
        ValueError: config: model.type: wanted a name that msvit_mm or a host registers, got 'os.system'.
    """
    for place, key, value in _walk(config):
        if key == 'type' and not (isinstance(value, str) and value in _registered()):
            raise ValueError(f'{where}: {place}: wanted a name that msvit_mm or a host registers, got {value!r}.')
        if key in ('_scope_', 'default_scope') and value not in (None, *SCOPES):
            raise ValueError(f'{where}: {place}: wanted one of {", ".join(SCOPES)}, got {value!r}.')
        if key == 'custom_imports':
            _check_imports(value, where)


def _check_imports(value: Any, where: str) -> None:
    names = value.get('imports') if isinstance(value, Mapping) else value
    names = [names] if isinstance(names, str) else names or []
    known = (OWN, *SCOPES)
    unknown = [name for name in names if not isinstance(name, str) or name.partition('.')[0] not in known]
    if unknown:
        raise ValueError(f'{where}: custom_imports: wanted modules of {", ".join(known)}, got {unknown[0]!r}.')


def _walk(value: Any, place: str = '') -> Iterator[tuple[str, Any, Any]]:
    """Place, key and value of every entry of nested dicts."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in pairs:
        where = f'{place}.{key}' if place else str(key)
        if isinstance(value, Mapping):
            yield where, key, item
        yield from _walk(item, where)


@cache
def _registered() -> frozenset[str]:
    """Every name under which a registry knows something: bare, with a scope, and as pure-Python configs are dumped."""
    for scope in SCOPES:
        with contextlib.suppress(ImportError):
            importlib.import_module(f'{scope}.registry')
    names = set()
    for root in (value for value in vars(registry).values() if isinstance(value, Registry)):
        for node in (root, *root.children.values()):
            with contextlib.suppress(ImportError):
                node.import_from_location()
            for name, item in node.module_dict.items():
                names |= {name, f'{node.scope}.{name}', f'{item.__module__}.{getattr(item, "__qualname__", name)}'}
    return frozenset(names)
