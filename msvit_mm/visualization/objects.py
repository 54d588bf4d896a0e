"""Objects drawn over images: boxes and masks."""

from collections.abc import Sequence

import cv2
import numpy as np


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    palette: Sequence[Sequence[int]],
    masks: np.ndarray | None = None,
    opacity: float = 0.5,
) -> np.ndarray:
    """Outline objects over an image, and lay their masks over it, all in the colours of their classes.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        boxes: Left, top, right and bottom in pixels, shape (n, 4).
        labels: Numbers of classes, shape (n,).
        palette: RGB of each class.
        masks: 1 where an object is, shape (n, H, W); none of detectors without.
        opacity: Of the masks, in [0, 1].

    Returns:
        RGB, uint8, shape (H, W, 3).

    Example:
        >>> draw_objects(np.zeros((3, 4, 3), np.uint8), np.array([[0, 0, 3, 3]]), np.array([0]), [[9, 0, 0]])[..., 0]
        array([[9, 9, 9, 0],
               [9, 0, 9, 0],
               [9, 9, 9, 0]], dtype=uint8)
    """
    canvas = image.copy()
    for index, (box, label) in enumerate(zip(np.round(boxes).astype(int).tolist(), labels, strict=True)):
        colour = [int(x) for x in palette[label]]
        if masks is not None:
            inside = masks[index] > 0
            canvas[inside] = (1 - opacity) * canvas[inside] + opacity * np.array(colour)
        cv2.rectangle(canvas, box[:2], (box[2] - 1, box[3] - 1), colour)
    return canvas
