"""Objects over images, against their pixels."""

import numpy as np

from msvit_mm.visualization import draw_objects


def test_masks_lie_over_the_image_inside_the_outlines():
    image = np.full((6, 8, 3), 100, np.uint8)
    masks = np.zeros((2, 6, 8), bool)
    masks[1, 2:4, 3:6] = True
    boxes, labels, palette = np.array([[0, 0, 2, 2], [2.4, 0.6, 7.2, 5.1]]), np.array([1, 0]), [[200, 0, 0], [0, 9, 0]]
    drawn = draw_objects(image, boxes, labels, palette, masks, opacity=0.25)
    assert (image == 100).all()
    assert (drawn[:2, :2] == palette[1]).all()
    outline = np.zeros((6, 8), bool)
    outline[1:5, 2:7] = True
    outline[2:4, 3:6] = False
    assert (drawn[outline] == palette[0]).all()
    assert (drawn[2:4, 3:6] == [125, 75, 75]).all()
    untouched = np.ones((6, 8), bool)
    untouched[:2, :2] = untouched[1:5, 2:7] = False
    assert (drawn[untouched] == 100).all()
    np.testing.assert_array_equal(draw_objects(image, boxes[:0], labels[:0], palette), image)
