"""Procedural scenes: a segmentation data set without files, with its detail in one place of each image.

A scene is a pure function of (seed, split, index, size). It is served as PNG bytes under ``scenes://`` addresses, so
every host tool that reads an image by its path (loading transforms, visualization hooks, inferencers) works on scenes.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import cv2
import numpy as np
from mmengine.fileio import BaseStorageBackend, register_backend
from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset

STUFF_CLASSES = ('plain', 'noise', 'stripes', 'clouds')
LARGE_CLASSES = ('ball', 'box')
SMALL_CLASSES = ('triangle', 'cross', 'disc', 'square')
SMALL_COLOURS = {  # BGR
    'triangle': (30, 30, 225),
    'cross': (30, 225, 225),
    'disc': (225, 30, 30),
    'square': (225, 225, 30),
}
SPLITS = ('train', 'val')
MIN_SIDE = 32


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Random generator of one scene.

    Splits never share a generator: the seed sequence holds three words of 32 bits, the second tells the split.

    Args:
        seed: Seed of the whole data set, in [0, 2**32).
        split: 'train' or 'val'.
        index: Number of the scene in its split, in [0, 2**32).

    Raises:
        ValueError: If the split is unknown or a number is out of its range.

    Example:
        >>> int(scene_rng(0, 'train', 7).integers(1000)) == int(scene_rng(0, 'train', 7).integers(1000))
        True
    """
    if split not in SPLITS:
        raise ValueError(f'split: wanted one of {SPLITS}, got {split!r}')
    for name, value in (('seed', seed), ('index', index)):
        if not 0 <= value < 2**32:
            raise ValueError(f'{name}: wanted a number in [0, 2**32), got {value}')
    return np.random.default_rng([seed, SPLITS.index(split), index])


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw textured areas, at most one large shape, and a cluster of small shapes.

    The texture tells the class of an area; outline and colour tell that of a small shape. Noisy and striped areas have
    strong edges without a class boundary, so edge energy alone does not tell where the detail is.

    Args:
        rng: Source of all randomness.
        size: (height, width) in pixels. Shapes scale with the shorter side; at 96, small ones measure 8 to 12 pixels.

    Returns:
        BGR image, uint8, shape (height, width, 3), and labels, uint8, shape (height, width).

    Raises:
        ValueError: If a side is shorter than 32 pixels.

    Example:
        >>> img, labels = draw_scene(scene_rng(0, 'train', 0), (64, 96))
        >>> img.shape, labels.shape
        ((64, 96, 3), (64, 96))
    """
    return draw_instances(rng, size)[:2]


def draw_instances(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a scene as :func:`draw_scene`, and number its shapes.

    Returns:
        Image and labels; the number of each pixel's shape, from 1 on and 0 for areas, uint8, shape (height, width).
    """
    if min(size) < MIN_SIDE:
        raise ValueError(f'size: wanted (height, width) of at least {MIN_SIDE} pixels each, got {tuple(size)}')
    img = np.empty((*size, 3), np.float32)
    labels, shapes = np.empty(size, np.uint8), np.zeros(size, np.uint8)
    _draw_areas(rng, img, labels)
    if rng.random() < 0.5:
        _draw_large_shape(rng, img, labels, shapes)
    _draw_small_shapes(rng, img, labels, shapes)
    # light differs per image and, smoothly, within it
    img *= 1 + 0.1 * _smooth_field(rng, size, cells=2)[..., None]
    lit = img * rng.uniform(0.8, 1.2, 3) + rng.uniform(-20, 20) + rng.normal(0, 4, img.shape)
    return np.clip(lit, 0, 255).astype(np.uint8), labels, shapes


def _smooth_field(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Random field without structure finer than a cell, about zero mean and unit deviation, shape `size`."""
    grid = rng.standard_normal((cells + 1, cells + 1), np.float32)
    return cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC)


def _draw_areas(rng: np.random.Generator, img: np.ndarray, labels: np.ndarray) -> None:
    """Fill the image with 2 or 3 stuff areas that meet near the centre, along curved boundaries."""
    size = labels.shape
    y, x = np.ogrid[: size[0], : size[1]]
    num_areas = int(rng.choice([2, 3], p=[0.9, 0.1]))
    angles = 2 * np.pi * (rng.random() + np.arange(num_areas) / num_areas) + rng.normal(0, 0.2, num_areas)
    centre_y, centre_x = rng.uniform(0.0, 1.0, 2)
    scores = [
        0.05 * _smooth_field(rng, size, cells=2)
        - np.hypot(y / size[0] - centre_y - 0.3 * np.sin(angle), x / size[1] - centre_x - 0.3 * np.cos(angle))
        for angle in angles
    ]
    areas = np.argmax(scores, axis=0)
    for area, label in enumerate(rng.permutation(len(STUFF_CLASSES))[:num_areas]):
        inside = areas == area
        texture = _draw_texture(rng, STUFF_CLASSES[label], size)
        img[inside] = (rng.uniform(70, 185, 3) + texture[..., None])[inside]
        labels[inside] = label


def _draw_texture(rng: np.random.Generator, name: str, size: tuple[int, int]) -> np.ndarray:
    """Brightness pattern of a stuff class around zero, shape `size`."""
    if name == 'plain':
        return 8 * _smooth_field(rng, size, cells=1)
    if name == 'noise':
        return rng.normal(0, rng.uniform(20, 35), size)
    if name == 'clouds':
        return rng.uniform(15, 22) * _smooth_field(rng, size, cells=8)
    y, x = np.ogrid[: size[0], : size[1]]
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(5, 9), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi / period * (y * np.sin(angle) + x * np.cos(angle)) + phase)
    return rng.uniform(20, 35) * wave


def _draw_large_shape(rng: np.random.Generator, img: np.ndarray, labels: np.ndarray, shapes: np.ndarray) -> None:
    """Draw a ball (bright in its middle) or a box (with checks) at a random place."""
    size = labels.shape
    radius = rng.uniform(12, 18) * min(size) / 96
    centre_y, centre_x = rng.uniform(radius, np.subtract(size, radius))
    y, x = np.ogrid[: size[0], : size[1]]
    y, x = (y - centre_y) / radius, (x - centre_x) / radius
    name = LARGE_CLASSES[rng.integers(2)]
    if name == 'ball':
        distance = np.hypot(y, x)
        inside, pattern = distance <= 1, 50 - 100 * distance
    else:
        aspect = rng.uniform(0.6, 1)
        inside = (np.abs(y) <= aspect) & (np.abs(x) <= 1)
        pattern = 40.0 * np.sign(np.sin(3 * np.pi * y) * np.sin(3 * np.pi * x))
    img[inside] = (rng.uniform(90, 165, 3) + pattern[..., None])[inside]
    labels[inside] = len(STUFF_CLASSES) + LARGE_CLASSES.index(name)
    shapes[inside] = shapes.max() + 1


def _draw_small_shapes(rng: np.random.Generator, img: np.ndarray, labels: np.ndarray, shapes: np.ndarray) -> None:
    """Draw a Gaussian cluster of small shapes that do not overlap one another, each class near a colour of its own."""
    size, unit = labels.shape, min(labels.shape) / 96
    cluster_centre = rng.uniform(0.2, 0.8, 2) * size
    first_small = len(STUFF_CLASSES) + len(LARGE_CLASSES)
    for _ in range(rng.integers(14, 21)):
        radius = rng.uniform(4, 6) * unit
        centre = np.clip(cluster_centre + rng.normal(0, 9 * unit, 2), radius, np.subtract(size, radius))
        top, left = np.floor(centre - radius).astype(int)
        bottom, right = np.minimum(np.ceil(centre + radius), size).astype(int)
        window = np.s_[top:bottom, left:right]
        if labels[window].max() >= first_small:
            continue
        y, x = np.ogrid[window]
        y, x = (y + 0.5 - centre[0]) / radius, (x + 0.5 - centre[1]) / radius
        name = SMALL_CLASSES[rng.integers(len(SMALL_CLASSES))]
        if name == 'triangle':
            inside = (np.abs(x) <= (y + 1) / 2) & (y <= 1)
        elif name == 'cross':
            inside = (np.minimum(np.abs(y), np.abs(x)) <= 0.35) & (np.maximum(np.abs(y), np.abs(x)) <= 1)
        elif name == 'disc':
            inside = y**2 + x**2 <= 1
        else:
            inside = np.maximum(np.abs(y), np.abs(x)) <= 0.9
        img[window][inside] = SMALL_COLOURS[name] + rng.normal(0, 20, 3)
        labels[window][inside] = first_small + SMALL_CLASSES.index(name)
        shapes[window][inside] = shapes.max() + 1


@lru_cache(maxsize=1)  # image and labels of a scene are asked for one after the other
def _encode_scene(seed: int, split: str, index: int, size: tuple[int, int]) -> tuple[bytes, bytes]:
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 0]
    img, labels = (
        cv2.imencode('.png', array, fast)[1].tobytes() for array in draw_scene(scene_rng(seed, split, index), size)
    )
    return img, labels


@register_backend('scenes', prefixes='scenes')
class ScenesBackend(BaseStorageBackend):
    """File backend of mmengine that draws what is asked for.

    Addresses read ``scenes://<split>/seed<seed>/<height>x<width>/<index>.png``; labels end in ``<index>_labels.png``.

    Example:
        >>> from mmengine import fileio
        >>> fileio.get('scenes://val/seed0/96x96/00012.png')[1:4]
        b'PNG'
    """

    def get(self, filepath: str) -> bytes:
        """Bytes of a PNG file, BGR image or one channel of labels.

        Raises:
            ValueError: If the address has another form.
        """
        match = re.fullmatch(r'scenes://(\w+)/seed(\d+)/(\d+)x(\d+)/(\d+)(_labels)?\.png', str(filepath))
        if match is None:
            raise ValueError(
                f'wanted scenes://<split>/seed<seed>/<height>x<width>/<index>[_labels].png, got {str(filepath)!r}'
            )
        split, seed, height, width, index, labels = match.groups()
        image_png, labels_png = _encode_scene(int(seed), split, int(index), (int(height), int(width)))
        return labels_png if labels else image_png

    def get_text(self, filepath: str) -> str:
        """Part of the interface; scenes hold no text."""
        raise ValueError(f'wanted a text file, got the image {filepath!r}')


@DATASETS.register_module()
class ScenesDataset(BaseSegDataset):
    """Scenes of textured areas, large shapes and clustered small shapes, drawn on demand: no file, no download.

    Image `index` depends on (seed, split, index, size) alone, not on `num_images`, the worker or the order. The usual
    ``LoadImageFromFile`` and ``LoadAnnotations`` load it. ``METAINFO['small_classes']`` names the classes of detail,
    ``['shape_classes']`` these and the large shapes.

    Args:
        num_images: Length of the data set, at least 1.
        size: (height, width) in pixels, each at least 32.
        split: 'train' or 'val'; their scenes are never the same.
        seed: Seed of the whole data set, in [0, 2**32).
        kwargs: Further arguments of :class:`mmseg.datasets.BaseSegDataset`, such as `pipeline`, `test_mode`, `indices`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> dataset = ScenesDataset(num_images=3, split='val')
        >>> dataset[2]['img_path']
        'scenes://val/seed0/96x96/00002.png'
    """

    METAINFO: ClassVar[dict] = dict(
        classes=STUFF_CLASSES + LARGE_CLASSES + SMALL_CLASSES,
        palette=[
            [140, 140, 140],
            [128, 64, 128],
            [107, 142, 35],
            [70, 130, 180],
            [255, 127, 14],
            [148, 103, 189],
            [214, 39, 40],
            [255, 215, 0],
            [0, 200, 120],
            [31, 60, 220],
        ],
        small_classes=SMALL_CLASSES,
        shape_classes=LARGE_CLASSES + SMALL_CLASSES,
    )

    def __init__(
        self,
        num_images: int,
        size: Sequence[int] = (96, 96),
        split: str = 'train',
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if num_images < 1:
            raise ValueError(f'num_images: wanted at least 1, got {num_images}')
        if len(size) != 2 or min(size) < MIN_SIDE:
            raise ValueError(f'size: wanted (height, width) of at least {MIN_SIDE} pixels each, got {tuple(size)}')
        scene_rng(seed, split, num_images - 1)  # raises on a bad split or seed
        self._num_images = num_images
        self._folder = f'scenes://{split}/seed{seed}/{size[0]}x{size[1]}'
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Addresses of all scenes, in the keys that mmseg's loading transforms read."""
        return [
            dict(
                img_path=f'{self._folder}/{index:05d}.png',
                seg_map_path=f'{self._folder}/{index:05d}_labels.png',
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            for index in range(self._num_images)
        ]
