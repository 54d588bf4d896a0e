"""What steps between the layers did to the tokens, drawn over images."""

import cv2
import numpy as np

LINE = np.array([255, 255, 255], dtype=np.uint8)


def draw_groups(image: np.ndarray, groups: np.ndarray, cell: int) -> np.ndarray:
    """Paint every group of cells that share one token in its mean colour, with lines where neighbours share none.

    Args:
        image: RGB of the size that the backbone saw, uint8, shape (H, W, 3).
        groups: A number of each cell's group, shape (rows, cols).
        cell: Side of a cell in pixels.

    Returns:
        RGB, uint8, shape (H, W, 3).

    Example:
        >>> image = np.array([[[0], [10], [50], [60]]], dtype=np.uint8).repeat(3, 2).repeat(2, 0)
        >>> draw_groups(image, np.array([[7, 7]]), cell=2)[..., 0].tolist()  # two cells, one token
        [[30, 30, 30, 30], [30, 30, 30, 30]]
    """
    number = enlarge_cells(groups, cell, image.shape[:2])
    _, index = np.unique(number, return_inverse=True)
    index = index.reshape(number.shape)
    count = np.bincount(index.ravel())
    sums = np.stack([np.bincount(index.ravel(), image[..., c].ravel()) for c in range(3)], axis=-1)
    canvas = (sums / count[:, None]).astype(np.uint8)[index]
    canvas[1:][number[1:] != number[:-1]] = LINE
    canvas[:, 1:][number[:, 1:] != number[:, :-1]] = LINE
    return canvas


def draw_depths(image: np.ndarray, layers: np.ndarray, cell: int) -> np.ndarray:
    """Darken an image the more, the fewer layers the tokens went through.

    Args:
        image: RGB of the size that the backbone saw, uint8, shape (H, W, 3).
        layers: Of each cell, shape (rows, cols).
        cell: Side of a cell in pixels.

    Returns:
        RGB, uint8, shape (H, W, 3).
    """
    depth = enlarge_cells(layers, cell, image.shape[:2]) / max(layers.max(), 1)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 4
    return np.where(depth[..., None] < 1, (1 - depth[..., None]) * grey + depth[..., None] * grey * 3, image).astype(
        np.uint8
    )


def enlarge_cells(values: np.ndarray, cell: int, size: tuple[int, int]) -> np.ndarray:
    """Values of cells at the pixels of an image of (height, width).

    Raises:
        ValueError: If they are not of an image of this size.
    """
    wanted = tuple(-(-side // cell) for side in size)
    if values.shape != wanted:
        raise ValueError(f'an image of {size[0]}x{size[1]} pixels has {wanted} cells, got a map of {values.shape}')
    return values.repeat(cell, 0).repeat(cell, 1)[: size[0], : size[1]]
