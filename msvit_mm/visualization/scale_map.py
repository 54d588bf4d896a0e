"""Scale maps drawn over images."""

import numpy as np

COARSE_TINT = np.array([40, 90, 200], dtype=np.float32)
LINE = np.array([255, 255, 255], dtype=np.uint8)


def draw_scale_map(
    image: np.ndarray, scale_map: np.ndarray, coarse_patch_size: int, patch_size: int, tint: float = 0.35
) -> np.ndarray:
    """Draw the grid of tokens over an image: coarse regions are tinted blue, fine ones divided into their cells.

    Args:
        image: RGB of the size that the backbone saw, uint8, shape (H, W, 3).
        scale_map: 1 = coarse, 0 = fine, shape (rows, cols); a mean over windows counts as coarse from 0.5 on.
        coarse_patch_size: Side of a region in pixels.
        patch_size: Side of a fine cell in pixels.
        tint: Opacity of the tint, in [0, 1].

    Returns:
        RGB, uint8, shape (k * H, k * W, 3), enlarged by a whole factor k so that cells are at least 16 pixels wide.

    Raises:
        ValueError: If the scale map does not belong to an image of this size.
    """
    height, width = image.shape[:2]
    wanted = (-(-height // coarse_patch_size), -(-width // coarse_patch_size))
    if scale_map.shape != wanted:
        raise ValueError(
            f'an image of {height}x{width} pixels has a scale map of shape {wanted}, got {scale_map.shape}'
        )
    k = -(-16 // patch_size)
    coarse = np.kron(scale_map >= 0.5, np.ones((coarse_patch_size * k,) * 2, dtype=bool))[: k * height, : k * width]
    canvas = image.repeat(k, axis=0).repeat(k, axis=1)
    canvas = np.where(coarse[..., None], (1 - tint) * canvas + tint * COARSE_TINT, canvas).astype(np.uint8)
    ys, xs = np.arange(k * height)[:, None], np.arange(k * width)[None, :]
    region_line = (ys % (k * coarse_patch_size) == 0) | (xs % (k * coarse_patch_size) == 0)
    cell_line = (ys % (k * patch_size) == 0) | (xs % (k * patch_size) == 0)
    canvas[region_line | (cell_line & ~coarse)] = LINE
    return canvas
