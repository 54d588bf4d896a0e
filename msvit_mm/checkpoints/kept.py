"""The config that a checkpoint keeps as text: its values, and what they say of the weights beside it."""

import ast
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def parse_config(text: str) -> dict[str, Any]:
    """Values of a config as mmengine prints it, without executing it.

    Raises:
        ValueError: If the text holds anything but assignments of literals and of ``dict(...)``.

    Example:
        >>> parse_config("model = dict(type='MSViT', img_size=(64, 96))")
        {'model': {'type': 'MSViT', 'img_size': (64, 96)}}
    """

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Call(func=ast.Name(id='dict'), args=args, keywords=words) if all(word.arg for word in words):
                return dict(*map(value, args), **{str(word.arg): value(word.value) for word in words})
            case ast.Dict(keys=keys, values=values) if all(keys):
                return {value(key): value(item) for key, item in zip(keys, values, strict=True) if key}
            case ast.List(elts=items):
                return [value(item) for item in items]
            case ast.Tuple(elts=items):
                return tuple(value(item) for item in items)
            case ast.Name(id='inf' | 'nan' as name):  # as mmengine prints them
                return float(name)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id='inf')):
                return -math.inf
        return ast.literal_eval(node)

    config = {}
    try:
        for node in ast.parse(text).body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)]):
                    config[name] = value(node.value)
                case _:
                    raise ValueError(ast.unparse(node))
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError(f'the kept config: wanted values as mmengine prints them, got {line_of(error)}.') from None
    return config


def kept_grids(weights: Mapping[Any, Any], meta: Any) -> dict[str, tuple[int, int]]:
    """Rows and columns of position embeddings by the name of their module, as the kept config lays them out.

    Args:
        weights: By name.
        meta: What stands beside them, with the text of the config as ``cfg``. Without one there are no grids.

    Example:
        >>> import torch
        >>> text = "model = dict(backbone=dict(type='VisionTransformer', img_size=(64, 256), patch_size=16))"
        >>> kept_grids({'backbone.pos_embed': torch.zeros(1, 1 + 4 * 16, 8)}, dict(cfg=text))
        {'backbone': (4, 16)}
    """
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    named = {str(key).removeprefix('module.'): tensor for key, tensor in weights.items()}
    positions = {key.rpartition('.')[0]: x for key, x in named.items() if key.endswith('.pos_embed') and _is_table(x)}
    if not positions or not isinstance(text, str):
        return {}
    try:
        model = parse_config(text).get('model')
    except ValueError:  # of interest to those who ask for the config alone
        return {}
    grids = {name: _grid_of(_below(model, name)) for name in positions}
    return {name: grid for name, grid in grids.items() if grid and 0 <= positions[name].shape[1] - math.prod(grid) <= 2}


def _is_table(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3


def _below(config: Any, name: str) -> Any:
    for part in name.split('.'):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _grid_of(module: Any) -> tuple[int, int] | None:
    """Of a config with ``img_size`` and ``patch_size`` in pixels, 16 by default as the hosts have it."""
    words = module if isinstance(module, Mapping) else {}
    size, patch = (_pair(value) for value in (words.get('img_size'), words.get('patch_size', 16)))
    return (size[0] // patch[0], size[1] // patch[1]) if size and patch else None


def _pair(value: Any) -> tuple[int, int] | None:
    value = (value, value) if isinstance(value, int) else value
    fits = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(x, int) and x > 0 for x in value)
    return (value[0], value[1]) if fits else None


def line_of(error: Exception) -> str:
    """An error in one short line."""
    return ' '.join(str(error).split())[:120]
