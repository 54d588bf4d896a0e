import pytest
import torch
from mmseg.evaluation import IoUMetric

from msvit_mm.evaluation import ImageAreasMetric, SmallIoUMetric, mean_iou

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
