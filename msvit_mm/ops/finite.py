"""Are numbers finite?"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def first_nonfinite(tensors: Mapping[str, Any]) -> str | None:
    """The first name below which there is a NaN or an infinity, none if all numbers are finite.

    Args:
        tensors: Tensors and numbers by name, in lists and mappings of any depth; all else is passed over.

    Example:
        >>> first_nonfinite(dict(a=torch.ones(2), b=[1.0, float('nan')]))
        'b.1'
    """
    return next((name for name, value in _leaves(tensors) if not _is_finite(value)), None)


def _leaves(value: Any, name: str = '') -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, child in pairs:
            yield from _leaves(child, f'{name}.{key}' if name else str(key))
    else:
        yield name, value


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        floating = value.is_floating_point() or value.is_complex()
        return not floating or value.is_meta or bool(torch.isfinite(value).all())
    return not isinstance(value, float) or value - value == 0
