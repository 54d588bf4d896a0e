"""What images and decisions must be: one clear error instead of numbers that mean something else."""

import torch
from torch import Tensor

from .tiling import Maps, as_maps, per_scale


def check_batch(images: Tensor, channels: int) -> None:
    """Check the type and the shape of a batch of images.

    Raises:
        ValueError: If it is not floating point of shape (B, channels, H, W).
    """
    if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
        raise ValueError(
            f'images must be floating point of shape (B, {channels}, H, W), '
            f'got {images.dtype} of shape {tuple(images.shape)}'
        )


def check_maps(given: Maps, like: Maps) -> Maps:
    """Decisions of every scale but the smallest as numbers of the type of others, such as the gate's logits.

    Args:
        given: 1 = coarse, 0 = fine.
        like: Maps of the shapes and the type that are wanted, (B, rows, cols) per scale but the smallest.

    Raises:
        ValueError: If they are not as many maps, or :func:`check_decisions` refuses one.
    """
    maps, wanted = per_scale(given), per_scale(like)
    if len(maps) != len(wanted):
        raise ValueError(
            f'decisions must be {len(wanted)} maps (B, rows, cols), of the largest nodes first, got {len(maps)}'
        )
    return as_maps([check_decisions(*pair) for pair in zip(maps, wanted, strict=True)])


def check_decisions(given: Tensor, like: Tensor, words: str = '0 (fine) or 1 (coarse)') -> Tensor:
    """Decisions as numbers of the type of a map.

    Args:
        like: Of the shape and the type that are wanted.
        words: The two values, for the error.

    Raises:
        ValueError: If they have another shape than that map, or other values than 0 and 1.
    """
    if given.shape != like.shape:
        wanted = tuple(like.shape)
        raise ValueError(f'decisions must have shape (B, rows, cols) = {wanted}, got {tuple(given.shape)}')
    if not ((given == 0) | (given == 1)).all():
        raise ValueError(f'decisions must be {words}, got {torch.unique(given).tolist()[:8]}')
    return given.to(like)
