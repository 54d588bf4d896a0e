"""Scenes as COCO's annotations: boxes and masks are those of the shapes."""

import cv2
import numpy as np
import pytest

from msvit_mm.datasets.coco import coco_scene, run_lengths
from msvit_mm.datasets.scenes import STUFF_CLASSES, draw_instances, draw_scene, scene_rng

SIZE = (64, 96)


def decode(segmentation):
    """COCO's run lengths to a mask."""
    values = np.arange(len(segmentation['counts'])) % 2
    return np.repeat(values, segmentation['counts']).reshape(segmentation['size'][::-1]).T.astype(bool)


@pytest.mark.parametrize('mask', [[[0, 1, 1], [0, 1, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]])
def test_run_lengths_come_back(mask):
    mask = np.array(mask, dtype=bool)
    assert np.array_equal(decode(dict(size=mask.shape, counts=run_lengths(mask))), mask)


@pytest.mark.parametrize('index', range(4))
def test_shapes_are_those_of_the_labels(index):
    """Every pixel of a shape class lies in one mask, of its class, inside its box."""
    image, labels = draw_scene(scene_rng(0, 'val', index), SIZE)
    assert np.array_equal(draw_instances(scene_rng(0, 'val', index), SIZE)[0], image)
    content, shapes = coco_scene(0, 'val', index, SIZE)
    assert np.array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), image)
    covered = np.zeros(SIZE, int)
    for shape in shapes:
        mask = decode(shape['segmentation'])
        assert (labels[mask] == len(STUFF_CLASSES) + shape['category_id'] - 1).all() and mask.sum() == shape['area'] > 0
        left, top, width, height = shape['bbox']
        inside = mask[top : top + height, left : left + width]
        assert inside.sum() == mask.sum()
        assert inside.any(0)[[0, -1]].all() and inside.any(1)[[0, -1]].all()
        covered += mask
    assert np.array_equal(covered, labels >= len(STUFF_CLASSES))
    assert len(shapes) > 3
