import numpy as np
import pytest

from msvit_mm.evaluation import mean_iou
from msvit_mm.studies.bootstrap import bootstrap_difference, check_same_images


def make_areas(num_images=5, quality=0.7, seed=0):
    """Areas of four classes by image, (N, 3, 4): the labels are those of the image, the hits those of the seed."""
    label = np.random.default_rng(0).integers(5, 20, (num_images, 4)).astype(float)
    hits = np.round(label * quality * np.random.default_rng(seed).uniform(0.5, 1, label.shape))
    return np.stack([hits, 1.5 * label - hits / 2, label], axis=1)


def test_bootstrap_draws_the_same_images_for_both():
    a, b = make_areas(seed=1), make_areas(seed=2, quality=0.5)
    result = bootstrap_difference(a, b, num_samples=300, seed=3)
    draws = np.random.default_rng(3).multinomial(5, [0.2] * 5, size=300)
    differences = [mean_iou(sum(n * x for n, x in zip(draw, a, strict=True))) for draw in draws]
    differences -= np.array([mean_iou(sum(n * x for n, x in zip(draw, b, strict=True))) for draw in draws])
    assert result['difference'] == pytest.approx(mean_iou(a.sum(0)) - mean_iou(b.sum(0)))
    assert [result['low'], result['high']] == pytest.approx(np.percentile(differences, [2.5, 97.5]))
    assert bootstrap_difference(a, a) == dict(difference=0, low=0, high=0)
    swapped = bootstrap_difference(b, a, num_samples=300, seed=3)
    assert [swapped['low'], swapped['high']] == pytest.approx([-result['high'], -result['low']])


def test_interval_is_that_of_the_normal_law():
    """One class in equal images: the mean IoU is a mean of independent numbers, whose spread is known."""
    generator = np.random.default_rng(0)
    hits = generator.normal(50, 10, 400)
    a = np.stack([hits, np.full(400, 100.0), np.full(400, 100.0)], axis=1)[..., None]
    b = np.broadcast_to(np.array([40.0, 100, 100])[:, None], (400, 3, 1))
    result = bootstrap_difference(a, b)
    deviation = hits.std() / 20
    assert result['high'] - result['difference'] == pytest.approx(1.96 * deviation, rel=0.1)
    assert result['difference'] - result['low'] == pytest.approx(1.96 * deviation, rel=0.1)


def test_other_images_are_refused():
    a = make_areas()
    for b in (a[:4], a[::-1], a[:, :, :3]):
        with pytest.raises(ValueError, match='wanted two results on the same images and labels, got 5 images of 4'):
            check_same_images(a, b)
        with pytest.raises(ValueError, match='the same images'):
            bootstrap_difference(a, b)
