"""Scale maps drawn over images."""

import numpy as np

COARSE = np.array([40, 90, 230], dtype=np.uint8)
FINE = np.array([255, 170, 0], dtype=np.uint8)


def draw_scale_map(image: np.ndarray, scale_map: np.ndarray, coarse_patch_size: int, patch_size: int) -> np.ndarray:
    """Outline the tokens over an image: those of coarse regions in blue, those of fine ones, their cells, in orange.

    Args:
        image: RGB of the size that the backbone saw, uint8, shape (H, W, 3).
        scale_map: 1 = coarse, 0 = fine, shape (rows, cols); a mean over windows counts as coarse from 0.5 on.
        coarse_patch_size: Side of a region in pixels.
        patch_size: Side of a fine cell in pixels.

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
    side = np.where(coarse, coarse_patch_size, patch_size) * k
    ys, xs = np.arange(k * height)[:, None] % side, np.arange(k * width)[None, :] % side
    on_line = (ys == 0) | (xs == 0) | (ys == side - 1) | (xs == side - 1)
    canvas = image.repeat(k, axis=0).repeat(k, axis=1)
    canvas[on_line & coarse] = COARSE
    canvas[on_line & ~coarse] = FINE
    return canvas
