"""Scale maps drawn over images."""

from collections.abc import Sequence

import numpy as np

COARSE = np.array([40, 90, 230], dtype=np.uint8)
BETWEEN = np.array([0, 190, 150], dtype=np.uint8)
FINE = np.array([255, 170, 0], dtype=np.uint8)


def draw_scale_map(
    image: np.ndarray,
    scale_map: np.ndarray | Sequence[np.ndarray],
    coarse_patch_size: int | Sequence[int],
    patch_size: int,
) -> np.ndarray:
    """Outline the tokens over an image: those of coarse regions in blue, those of fine ones, their cells, in orange.

    Of more than two scales the tokens between are green, the darker the larger.

    Args:
        image: RGB of the size that the backbone saw, uint8, shape (H, W, 3).
        scale_map: 1 = coarse, 0 = fine, shape (rows, cols); a mean over windows counts as coarse from 0.5 on. Of more
            than two scales one for each but the smallest, of the largest nodes first.
        coarse_patch_size: Side of a region in pixels, or of the nodes of each map.
        patch_size: Side of a fine cell in pixels.

    Returns:
        RGB, uint8, shape (k * H, k * W, 3), enlarged by a whole factor k so that cells are at least 16 pixels wide.

    Raises:
        ValueError: If a scale map does not belong to an image of this size.
    """
    height, width = image.shape[:2]
    maps = [scale_map] if isinstance(scale_map, np.ndarray) else list(scale_map)
    sides = [coarse_patch_size] if isinstance(coarse_patch_size, int) else list(coarse_patch_size)
    k = -(-16 // patch_size)
    side = np.full((k * height, k * width), patch_size * k)
    for own, size in reversed(list(zip(maps, sides, strict=True))):
        wanted = (-(-height // size), -(-width // size))
        if own.shape != wanted:
            raise ValueError(f'an image of {height}x{width} pixels has a scale map of shape {wanted}, got {own.shape}')
        whole = np.kron(own >= 0.5, np.ones((size * k,) * 2, dtype=bool))[: k * height, : k * width]
        side = np.where(whole, size * k, side)
    ys, xs = np.arange(k * height)[:, None] % side, np.arange(k * width)[None, :] % side
    on_line = (ys == 0) | (xs == 0) | (ys == side - 1) | (xs == side - 1)
    canvas = image.repeat(k, axis=0).repeat(k, axis=1)
    for size, tone in zip((*sides, patch_size), tones(len(sides) + 1), strict=True):
        canvas[on_line & (side == size * k)] = tone
    return canvas


def tones(count: int) -> list[np.ndarray]:
    """Colours of the outlines of as many scales, the largest first.

    Example:
        >>> [tone.tolist() for tone in tones(3)]
        [[40, 90, 230], [0, 190, 150], [255, 170, 0]]
    """
    between = [(BETWEEN * (i + 1) // (count - 2)).astype(np.uint8) for i in range(count - 2)]
    return [COARSE, *between, FINE]
