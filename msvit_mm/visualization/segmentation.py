"""Label maps drawn over images, alone and as a sheet of examples."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

IGNORED = np.array([0, 0, 0], dtype=np.uint8)
WRONG = np.array([255, 0, 0], dtype=np.uint8)


def draw_segmentation(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]] | np.ndarray, opacity: float = 0.5
) -> np.ndarray:
    """Lay the colours of the classes over an image; labels that are no class are black.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        labels: Numbers of classes, shape (H, W).
        palette: RGB of each class.
        opacity: Of the colours, in [0, 1].

    Returns:
        RGB, uint8, shape (H, W, 3).

    Raises:
        ValueError: If image and labels differ in size.

    Example:
        >>> draw_segmentation(np.zeros((1, 2, 3), np.uint8), np.array([[0, 255]]), [[200, 100, 0]]).tolist()
        [[[100, 50, 0], [0, 0, 0]]]
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f'labels: wanted shape {image.shape[:2]}, that of the image, got {labels.shape}')
    colours = np.full((256, 3), IGNORED, dtype=np.uint8)
    colours[: len(palette)] = palette
    return ((1 - opacity) * image + opacity * colours[labels.astype(np.uint8)]).astype(np.uint8)


def draw_errors(
    image: np.ndarray,
    predicted: np.ndarray,
    labels: np.ndarray,
    palette: Sequence[Sequence[int]],
    opacity: float = 0.7,
    ignore_index: int = 255,
) -> np.ndarray:
    """Lay the predicted classes over an image, both pale, and pure red where they are wrong.

    Args:
        image: RGB, uint8, shape (H, W, 3); drawn grey.
        predicted, labels: Numbers of classes, shape (H, W).
        palette: RGB of each class; drawn as :func:`pale` makes them.
        opacity: Of the classes, in [0, 1].
        ignore_index: Label of pixels that are neither right nor wrong.

    Returns:
        RGB, uint8, shape (H, W, 3).

    Example:
        >>> draw_errors(np.zeros((1, 2, 3), np.uint8), np.array([[0, 0]]), np.array([[0, 1]]), [[255, 0, 0]]).tolist()
        [[[178, 88, 88], [255, 0, 0]]]
    """
    grey = image.mean(-1, keepdims=True).repeat(3, -1)
    canvas = draw_segmentation(grey, predicted, pale(palette), opacity)
    canvas[(predicted != labels) & (labels != ignore_index)] = WRONG
    return canvas


def pale(palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Colours half-way to white, of which none is the red of what is wrong.

    Args:
        palette: RGB of each class.

    Returns:
        RGB, uint8, shape (classes, 3).

    Example:
        >>> pale([[255, 0, 0], [40, 90, 230]]).tolist()
        [[255, 127, 127], [147, 172, 242]]
    """
    return ((np.asarray(palette, dtype=int) + 255) // 2).astype(np.uint8)


def draw_sheet(
    examples: Sequence[tuple[str, np.ndarray, np.ndarray]], classes: Sequence[str], palette: Sequence[Sequence[int]]
) -> Figure:
    """A sheet of examples, each the image and its labels over it, with the colours of the classes below.

    Args:
        examples: Name, RGB image (H, W, 3) and labels (H, W) of each; at least one.
        classes: Names of the classes.
        palette: RGB of each class.
    """
    per_row = min(3, len(examples))
    rows = -(-len(examples) // per_row)
    fig = Figure(figsize=(5 * per_row, 2.2 * rows + 0.6), layout='constrained')
    axes = fig.subplots(rows, 2 * per_row, squeeze=False).reshape(-1, 2)
    for ax in axes.flat:
        ax.set_axis_off()
    for (left, right), (name, image, labels) in zip(axes, examples, strict=False):
        left.imshow(image)
        left.set_title(name, fontsize=8)
        right.imshow(draw_segmentation(image, labels, palette, opacity=0.6))
    add_legend(fig, dict(zip(classes, palette, strict=True)))
    return fig


def add_legend(fig: Figure, colours: Mapping[str, Sequence[int] | np.ndarray]) -> None:
    """Put a legend of colours, RGB in 0 to 255 by name, below a figure."""
    patches = [Patch(color=(r / 255, g / 255, b / 255), label=name) for name, (r, g, b) in colours.items()]
    fig.legend(handles=patches, loc='outside lower center', ncols=6, fontsize=8)
