"""What the adapters to peers share: their code from a clone, their attention fused, their setting at equal cost."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from msvit_mm.ops.macs import count_macs
from msvit_mm.studies.timing import clock_of, compare_calls

DENSE = 'dense host'  # what all others compare with
SEED = 0


class System(NamedTuple):
    """What is timed: the part of a segmentor that it is, its name, its knob, a call, its tokens (see the notes)."""

    part: str
    name: str
    setting: dict[str, float]
    call: Callable[[], object]
    num_tokens: float


def import_peer(path: str, repository: str, roots: Sequence[str], modules: Sequence[str]) -> list[ModuleType]:
    """Modules of a clone, whose packages lie in folders ``roots`` of it."""
    first = modules[0].replace('.', '/') + '.py'
    if not any(Path(path, root, first).is_file() for root in roots):
        raise ValueError(f"'{path}': wanted a clone of {repository}, got a folder without {first}, or none.")
    sys.path[:0] = [str(Path(path, root).resolve()) for root in roots]
    try:
        return [importlib.import_module(name) for name in modules]
    except ImportError as error:
        raise ValueError(f"'{path}': wanted {repository} and the packages that it needs, got: {error}.") from error


def fused_attention(layer: nn.Module, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Self-attention of a peer's attention layer in evaluation mode, by the fused kernel.

    Args:
        layer: Has ``qkv``, ``proj``, and ``num_heads`` or ``heads``.
        x: Shape (B, N, C).
        size: Patches that each token stands for, whose logarithm adds to its scores as a key, shape (B, N, 1).

    Returns:
        Shape (B, N, C), and the keys (B, heads, N, C / heads).
    """
    heads = layer.num_heads if hasattr(layer, 'num_heads') else layer.heads
    # (B, N, 3 * C) -> three of (B, heads, N, C / heads)
    query, key, value = layer.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    bias = None if size is None else size.log().transpose(1, 2).unsqueeze(1)  # (B, N, 1) -> (B, 1, 1, N)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return layer.proj(attended.transpose(1, 2).flatten(2)), key


def fuse(blocks: Sequence[nn.Module], forward: Callable) -> None:
    """Give the attention layers of these blocks this forward function."""
    for block in blocks:
        block.attn.forward = partial(forward, block.attn)


def match_gmacs(gmacs: Callable[[float], float], target: float, none: float, most: float) -> float:
    """The setting of the GMACs nearest to the target, by bisection between no merging and the most of it.

    Args:
        gmacs: Of a setting; they fall from ``none`` to ``most``.
    """
    tried = {}
    for _ in range(20):
        middle = (none + most) / 2
        tried[middle] = gmacs(middle)
        if abs(tried[middle] / target - 1) < 1e-3:
            break
        none, most = (middle, most) if tried[middle] > target else (none, middle)
    return min(tried, key=lambda setting: abs(tried[setting] - target))


def count_gmacs(call: Callable[[], object], batch_size: int) -> float:
    """Multiply-adds of a call in 1e9 per image."""
    return count_macs(call) / batch_size / 1e9


def mean_tokens(blocks: Sequence[nn.Module], call: Callable[[], object]) -> float:
    """Patch tokens that enter the feed-forward networks in a call, mean over the blocks."""
    seen = []
    hooks = [block.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1] - 1)) for block in blocks]
    call()
    for hook in hooks:
        hook.remove()
    return sum(seen) / len(seen)


def time_systems(
    systems: Sequence[System], batch_size: int, device: str, repeats: int, progress: Callable[[range], object]
) -> list[dict]:
    """A row for each system; the dense host of its part is the reference."""
    calls = {system[:2]: system.call for system in systems}
    gmacs = {key: count_gmacs(call, batch_size) for key, call in calls.items()}
    references = {(part, name): (part, DENSE) for part, name in calls}
    costs = compare_calls(calls, gmacs, references, clock_of(device, 1)[0], repeats, progress)
    return [
        dict(part=part, system=name, setting=setting, num_tokens=num_tokens, gmacs=gmacs[part, name])
        | costs[part, name]
        for part, name, setting, _, num_tokens in systems
    ]


def commit_of(path: str) -> str:
    """The commit of a clone."""
    return subprocess.run(['git', '-C', path, 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()
