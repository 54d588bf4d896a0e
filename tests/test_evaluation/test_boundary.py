import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from msvit_mm.evaluation import BoundaryFScoreMetric, BoundaryIoUMetric, boundary_fscore, near_boundary

META = dict(classes=('sky', 'road', 'car'))


def evaluate(metric, *samples):
    metric.dataset_meta = META
    metric.process({}, list(samples))
    return metric.evaluate(size=len(samples))


@pytest.mark.parametrize('distance', [0, 3])
def test_near_boundary(labels, distance):
    array = labels.numpy()
    edge = np.zeros(array.shape, dtype=bool)
    for (y, x), label in np.ndenumerate(array):
        for dy, dx in ((0, 1), (1, 0)):
            if y + dy < array.shape[0] and x + dx < array.shape[1]:
                other = array[y + dy, x + dx]
                if label != other and 255 not in (label, other):
                    edge[y, x] = edge[y + dy, x + dx] = True
    expected = np.zeros_like(edge)
    for y, x in zip(*edge.nonzero(), strict=True):
        expected[max(y - distance, 0) : y + distance + 1, max(x - distance, 0) : x + distance + 1] = True
    assert np.array_equal(near_boundary(labels, distance).numpy(), expected)


def test_another_label_can_be_ignored():
    labels = torch.zeros(16, 32, dtype=torch.long)
    labels[:, 20:] = 7
    assert near_boundary(labels, 2).any()
    assert not near_boundary(labels, 2, ignore_index=7).any()


def test_boundary_iou_is_iou_on_masked_labels(labels):
    predictions = torch.randint(3, labels.shape, generator=torch.Generator().manual_seed(2))
    samples = [dict(pred_sem_seg=dict(data=predictions[None]), gt_sem_seg=dict(data=labels[None]))]
    masked = labels.masked_fill(~near_boundary(labels, 2), 255)
    boundary = evaluate(BoundaryIoUMetric(distance=2, iou_metrics=['mIoU']), *samples)
    plain = evaluate(IoUMetric(iou_metrics=['mIoU']), dict(samples[0], gt_sem_seg=dict(data=masked[None])))
    assert {f'boundary/{name}' for name in plain} == set(boundary)
    assert [boundary[f'boundary/{name}'] for name in plain] == pytest.approx(list(plain.values()), nan_ok=True)
    assert torch.equal(samples[0]['gt_sem_seg']['data'], labels[None])


@pytest.mark.parametrize('tolerance', [0, 1, 2.3])
def test_boundary_fscore_counts_pixels(labels, tolerance):
    """Against distances between all pairs of boundary pixels."""
    generator = torch.Generator().manual_seed(2)
    predicted = labels.roll(2, 1).masked_fill(torch.rand(labels.shape, generator=generator) < 0.01, 2)
    predicted = predicted.masked_fill(labels == 255, 255)

    def boundary(array, label):
        found = set()
        for y, x in zip(*(array == label).nonzero(), strict=True):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                inside = 0 <= y + dy < array.shape[0] and 0 <= x + dx < array.shape[1]
                if inside and array[y + dy, x + dx] not in (label, 255):
                    found.add((y, x))
        return np.array(sorted(found)).reshape(-1, 2)

    def share_near(points, others):
        if not len(points):
            return 1.0
        squares = ((points[:, None] - others[None]) ** 2).sum(-1)
        return (squares.min(1, initial=10**9) <= tolerance**2).mean()

    scores = []
    for label in sorted(set(labels.flatten().tolist()) - {255}):
        found, wanted = boundary(predicted.numpy(), label), boundary(labels.numpy(), label)
        precision, recall = share_near(found, wanted), share_near(wanted, found)
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0)
    expected = np.mean(scores) if scores else float('nan')
    assert boundary_fscore(predicted, labels, tolerance) == pytest.approx(expected, nan_ok=True)


def test_boundary_fscore_of_clear_cases():
    labels = torch.zeros(20, 30, dtype=torch.long)
    labels[5:15, 10:20] = 1
    samples = [
        dict(gt_sem_seg=dict(data=labels[None]), pred_sem_seg=dict(data=labels.roll(shift, 1)[None]))
        for shift in (0, 2, 9)
    ]
    scores = [evaluate(BoundaryFScoreMetric(tolerance=2), sample)['boundary/fscore'] for sample in samples]
    assert scores[:2] == [100, 100]
    assert 0 < scores[2] < 50
    assert evaluate(BoundaryFScoreMetric(), *samples)['boundary/fscore'] == pytest.approx(np.mean(scores))
    nothing = dict(samples[0], pred_sem_seg=dict(data=torch.zeros(1, 20, 30, dtype=torch.long)))
    assert evaluate(BoundaryFScoreMetric(), nothing)['boundary/fscore'] == 0
    ignored = dict(samples[0], gt_sem_seg=dict(data=torch.full((1, 20, 30), 255)))
    assert evaluate(BoundaryFScoreMetric(), ignored, samples[0])['boundary/fscore'] == 100
