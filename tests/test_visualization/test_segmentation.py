import numpy as np

from msvit_mm.visualization import WRONG, draw_errors


def test_only_what_is_wrong_is_red():
    """Whatever the photo and the palette hold: pure red is wrong, and what is right is far from it."""
    rng = np.random.default_rng(0)
    palette = [[255, 0, 0], [214, 39, 40], *rng.integers(0, 256, (4, 3)).tolist()]
    predicted, labels = rng.integers(0, 6, (2, 40, 50))
    labels[:10] = predicted[:10]
    labels[rng.random(labels.shape) < 0.1] = 255
    wrong = (predicted != labels) & (labels != 255)
    for image in (rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), np.full((40, 50, 3), WRONG)):
        drawn = draw_errors(image, predicted, labels, palette)
        assert (drawn[wrong] == WRONG).all()
        assert drawn[~wrong][:, 1:].min() > 80
        assert np.array_equal(drawn, draw_errors(image[..., ::-1], predicted, labels, palette))  # the photo is grey
