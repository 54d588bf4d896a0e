import numpy as np
import pytest

from msvit_mm.visualization.scale_map import BETWEEN, COARSE, FINE, draw_scale_map


@pytest.mark.parametrize(('coarse_patch_size', 'patch_size', 'k'), [(32, 16, 1), (16, 8, 2), (28, 14, 2)])
def test_every_token_has_its_outline(coarse_patch_size, patch_size, k):
    height, width = 2 * coarse_patch_size + 5, 3 * coarse_patch_size - 7
    image = np.random.default_rng(0).integers(100, 200, (height, width, 3), dtype=np.uint8)
    scale_map = np.array([[1, 0, 0.5], [0, 1, 0.4], [0, 0, 1]])
    before = image.copy()
    canvas = draw_scale_map(image, scale_map, coarse_patch_size, patch_size)
    assert canvas.shape == (k * height, k * width, 3)
    assert canvas.dtype == np.uint8
    assert np.array_equal(image, before)
    for y in range(k * height):
        for x in range(k * width):
            row, col = y // (k * coarse_patch_size), x // (k * coarse_patch_size)
            coarse = scale_map[row, col] >= 0.5
            side = k * (coarse_patch_size if coarse else patch_size)
            on_line = {y % side, x % side} & {0, side - 1}
            expected = image[y // k, x // k] if not on_line else COARSE if coarse else FINE
            assert np.array_equal(canvas[y, x], expected), (y, x)


@pytest.mark.parametrize('shape', [(2, 2), (3, 2), (1, 2, 3)])
def test_map_of_another_image(shape):
    with pytest.raises(ValueError, match=r'an image of 64x96 pixels has a scale map of shape \(2, 3\), got'):
        draw_scale_map(np.zeros((64, 96, 3), np.uint8), np.zeros(shape), 32, 16)


def test_three_scales_have_three_tones():
    image = np.zeros((64, 64, 3), np.uint8)
    regions, nodes = np.array([[1, 0], [0, 0]]), np.ones((4, 4))
    nodes[2:, :2] = 0
    canvas = draw_scale_map(image, [regions, nodes], [32, 16], 8)
    for (y, x), tone in {(0, 0): COARSE, (0, 64): BETWEEN, (32, 96): BETWEEN, (64, 0): FINE}.items():
        assert np.array_equal(canvas[y, x], tone), (y, x)
    assert not canvas[40, 40].any()
