import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from msvit_mm.evaluation import ImageAreasMetric, SmallIoUMetric, bootstrap_difference, check_same_images, mean_iou

META = dict(classes=('sky', 'road', 'car', 'sign'), small_classes=('car', 'sign'))


def make_samples(num_images=5, quality=0.7, seed=0):
    """Maps of blocks whose predictions are right in a share of the blocks; some pixels are ignored."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for i in range(num_images):
        labels = torch.randint(4 if i else 2, (1, 6, 8), generator=torch.Generator().manual_seed(i))
        right = torch.rand(1, 6, 8, generator=generator) < quality
        predicted = torch.where(right, labels, torch.randint(4, (1, 6, 8), generator=generator))
        labels[0, 0, :3] = 255
        samples.append(dict(gt_sem_seg=dict(data=labels), pred_sem_seg=dict(data=predicted)))
    return samples


def evaluate(metric, samples, meta=META):
    metric.dataset_meta = meta
    metric.process({}, samples)
    return metric.evaluate(size=len(samples))


def areas_of(samples):
    metric = ImageAreasMetric()
    assert evaluate(metric, samples) == {}
    return metric.areas


def test_areas_add_up_to_the_host_metric():
    samples = make_samples()
    areas = areas_of(samples)
    assert areas.shape == (5, 3, 4)
    assert mean_iou(areas.sum(0)) == pytest.approx(evaluate(IoUMetric(), samples)['mIoU'], abs=0.005)
    for image, sample in zip(areas, samples, strict=True):
        assert mean_iou(image) == pytest.approx(evaluate(IoUMetric(), [sample])['mIoU'], abs=0.005)
        counts = torch.bincount(sample['gt_sem_seg']['data'].flatten(), minlength=256)[:4]
        assert image[2].tolist() == counts.tolist()


def test_small_iou_is_over_the_small_classes_alone():
    samples = make_samples()
    total = areas_of(samples).sum(0)
    expected = 50 * sum(total[0, i] / total[1, i] for i in (2, 3))
    assert evaluate(SmallIoUMetric(), samples) == {'small/mIoU': pytest.approx(expected)}
    with pytest.raises(ValueError, match="wanted a data set with 'small_classes', got .'classes'"):
        evaluate(SmallIoUMetric(), samples, dict(classes=META['classes']))


def test_bootstrap_draws_the_same_images_for_both():
    a, b = areas_of(make_samples(seed=1)), areas_of(make_samples(seed=2, quality=0.5))
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
    a = areas_of(make_samples())
    for b in (a[:4], a[::-1], a[:, :, :3]):
        with pytest.raises(ValueError, match='wanted two results on the same images and labels, got 5 images of 4'):
            check_same_images(a, b)
        with pytest.raises(ValueError, match='the same images'):
            bootstrap_difference(a, b)
