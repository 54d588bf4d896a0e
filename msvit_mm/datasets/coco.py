"""Scenes in COCO's format: a folder of images and the shapes in them as boxes and masks, for detectors."""

from itertools import groupby
from typing import Any

import cv2
import numpy as np

from .scenes import LARGE_CLASSES, SMALL_CLASSES, STUFF_CLASSES, draw_instances, scene_rng

SHAPE_CLASSES = LARGE_CLASSES + SMALL_CLASSES


def coco_scene(seed: int, split: str, index: int, size: tuple[int, int]) -> tuple[bytes, list[dict[str, Any]]]:
    """One scene: its PNG file, and its shapes as COCO's annotations but for their ids.

    Args:
        seed, split, index: As for :func:`~msvit_mm.datasets.scenes.scene_rng`.
        size: (height, width) in pixels.

    Example:
        >>> _, shapes = coco_scene(0, 'val', 0, (96, 96))
        >>> shapes[0]['bbox'], shapes[0]['area'], sum(shapes[0]['segmentation']['counts'])
        ([40, 50, 12, 12], 107, 9216)
    """
    image, labels, shapes = draw_instances(scene_rng(seed, split, index), size)
    annotations = []
    for number in range(1, shapes.max() + 1):
        mask = shapes == number
        if not mask.any():  # later ones hide it
            continue
        ys, xs = np.nonzero(mask)
        left, top = int(xs.min()), int(ys.min())
        box = [left, top, int(xs.max()) + 1 - left, int(ys.max()) + 1 - top]
        annotations.append(
            dict(
                category_id=int(labels[mask][0]) - len(STUFF_CLASSES) + 1,
                bbox=box,
                area=int(mask.sum()),
                segmentation=dict(size=list(size), counts=run_lengths(mask)),
                iscrowd=0,
            )
        )
    return cv2.imencode('.png', image)[1].tobytes(), annotations


def coco_record(scenes: list[list[dict[str, Any]]], size: tuple[int, int]) -> dict[str, Any]:
    """The annotation file of a split, from the shapes of all its scenes."""
    images = [dict(id=i, file_name=file_name(i), height=size[0], width=size[1]) for i in range(len(scenes))]
    shapes = [dict(shape, image_id=i) for i, scene in enumerate(scenes) for shape in scene]
    return dict(
        images=images,
        annotations=[dict(shape, id=number) for number, shape in enumerate(shapes, start=1)],
        categories=[dict(id=i, name=name) for i, name in enumerate(SHAPE_CLASSES, start=1)],
    )


def file_name(index: int) -> str:
    """Of the image of a scene."""
    return f'{index:05d}.png'


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a mask, column by column, the first of what is outside.

    Example:
        >>> run_lengths(np.array([[True, False], [True, True]]))
        [0, 2, 1, 1]
    """
    lengths = [len(list(run)) for _, run in groupby(mask.ravel(order='F').tolist())]
    return [0, *lengths] if mask[0, 0] else lengths
