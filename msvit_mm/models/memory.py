"""Whether predictions fit into memory, before it is asked for: a system out of it ends the process without a word."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones.base import image_size

# Copies of the class scores in single precision: over the network's input, and over the images as they were (measured).
SCORES_OF_INPUT, SCORES_OF_IMAGE = 3.0, 1.25
SMALL = 2**27  # bytes for which nobody is asked
# Limit, use and the line of statistics with what of the use is cache, of a container: control groups 2 and 1.
CONTROL_GROUPS = (
    ('memory.max', 'memory.current', 'memory.stat', 'inactive_file'),
    ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes', 'memory/memory.stat', 'total_inactive_file'),
)


class ImageMemoryError(ValueError):
    """Images whose class scores do not fit into memory."""


def check_memory(
    inputs: Tensor, metas: Sequence[Mapping[str, Any]], num_classes: int, available: int | None = None
) -> None:
    """Check that the class scores of images fit into memory: hosts hold several copies, the last at the full size.

    The layers take less, but for huge images in one window.

    Args:
        inputs: As the network sees them, shape (B, 3, H, W).
        metas: Of each image, with its ``ori_shape`` where it was another one.
        available: Bytes; default those that are free on the device.

    Raises:
        ImageMemoryError: If they do not fit, with the size that does.
    """
    sizes = [meta.get('ori_shape', image_size(inputs)) for meta in metas]
    pixels = SCORES_OF_INPUT * inputs[:, 0].numel() + SCORES_OF_IMAGE * sum(height * width for height, width in sizes)
    needed = 4 * num_classes * pixels
    if available is None:
        available = SMALL if needed <= SMALL else free_memory(inputs.device)
    if needed > available:
        height, width = max(sizes, key=lambda size: size[0] * size[1])
        scale = (available / needed) ** 0.5
        batch = '' if len(inputs) == 1 else f' in a batch of {len(inputs)}'
        raise ImageMemoryError(
            f'image: wanted at most about {height * scale:.0f} x {width * scale:.0f} pixels{batch} for the '
            f'{available / 1e9:.1f} GB that are free, got {height} x {width}, whose scores of {num_classes} '
            f'classes take {needed / 1e9:.1f} GB'
        )


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; of the CPU what the system counts as available and the container's limit leaves.

    Example:
        >>> free_memory(torch.device('cpu')) > 0
        True
    """
    if device.type == 'cuda':  # what torch keeps for itself is free, too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free = 2**62
    with contextlib.suppress(OSError, ValueError, StopIteration):
        free = 1024 * _value_of('MemAvailable:', Path('/proc/meminfo'))
    return min(free, _left_in_container())


def _left_in_container(root: Path = Path('/sys/fs/cgroup')) -> int:
    """Bytes that the limit of a container leaves, or a great many if there is none."""
    left = 2**62
    for limit, used, statistics, cache in CONTROL_GROUPS:
        with contextlib.suppress(OSError, ValueError, StopIteration):  # 'max': no limit
            taken = int((root / used).read_text()) - _value_of(cache, root / statistics)
            left = min(left, max(0, int((root / limit).read_text()) - taken))
    return left


def _value_of(name: str, path: Path) -> int:
    """The number of the line that begins with a name."""
    lines = (line.split() for line in path.read_text().splitlines())
    return int(next(value for key, value, *_ in lines if key == name))
