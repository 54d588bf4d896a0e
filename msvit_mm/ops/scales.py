"""Modules of every scale but the smallest: one of two scales, a list of more."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn


class EachScale(nn.ModuleList):
    """One module for each scale but the smallest, that of the largest nodes first.

    Weights of one that only two scales' networks have saved are taken for every scale whose shapes they fit.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        saved = [x for x in state_dict if x.startswith(prefix) and not x[len(prefix) :].partition('.')[0].isdigit()]
        for key in saved:
            value, name = state_dict.pop(key), key.removeprefix(prefix)
            for i, module in enumerate(self):
                own = module.state_dict().get(name)
                fits = own is None or own.shape == value.shape
                state_dict[f'{prefix}{i}.{name}'] = value if fits else own
        super()._load_from_state_dict(state_dict, prefix, *others)


def for_each_scale(build: Callable[[int], nn.Module], sides: Sequence[int]) -> nn.Module:
    """A module for nodes of each side; of two scales, which have one, without a list around it."""
    modules = [build(side) for side in sides]
    return modules[0] if len(modules) == 1 else EachScale(modules)


def by_scale(module: nn.Module | None) -> list[Any]:
    """What :func:`for_each_scale` built, the largest nodes' first; empty if there is none."""
    if module is None:
        return []
    return list(module) if isinstance(module, EachScale) else [module]
