import math

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from msvit_mm.evaluation import (
    BoundaryFScoreMetric,
    BoundaryIoUMetric,
    GateContentMetric,
    area_under_curve,
    boundary_fscore,
    near_boundary,
)
from msvit_mm.ops.regions import regions_with_boundary

META = dict(classes=('sky', 'road', 'car'))
LABELS = {
    'patches': torch.arange(6).reshape(2, 3).repeat_interleave(17, 0).repeat_interleave(25, 1) % 3,
    'noise': torch.randint(3, (40, 70), generator=torch.Generator().manual_seed(0)),
    'sparse': (torch.rand(70, 45, generator=torch.Generator().manual_seed(1)) < 0.002).long(),
    'constant': torch.ones(33, 40, dtype=torch.long),
}
LABELS['ignored'] = LABELS['patches'].clone()
LABELS['ignored'][10:24, 20:40] = 255
LABELS['all ignored'] = torch.full((33, 40), 255)
every_label_map = pytest.mark.parametrize('labels', LABELS.values(), ids=LABELS)


@pytest.mark.parametrize('num_values', [3, 1000])
def test_area_under_curve_counts_pairs(num_values):
    generator = np.random.default_rng(0)
    scores, labels = generator.integers(num_values, size=60) / num_values, generator.random(60) < 0.3
    positive, negative = scores[labels][:, None], scores[~labels][None, :]
    assert area_under_curve(scores, labels) == pytest.approx(
        ((positive > negative) + (positive == negative) / 2).mean()
    )


def test_area_under_curve_of_clear_cases():
    labels = np.array([False, False, True])
    assert area_under_curve(np.array([0.0, 1.0, 2.0]), labels) == 1
    assert area_under_curve(np.array([2.0, 1.0, 0.0]), labels) == 0
    assert area_under_curve(np.zeros(3), labels) == 0.5
    assert math.isnan(area_under_curve(np.zeros(3), np.zeros(3, dtype=bool)))
    assert math.isnan(area_under_curve(np.zeros(3), np.ones(3, dtype=bool)))


@every_label_map
@pytest.mark.parametrize('size', [16, 32])
def test_regions_with_boundary(labels, size):
    expected = [
        [
            len(set(labels[y : y + size, x : x + size].flatten().tolist()) - {255}) > 1
            for x in range(0, labels.shape[1], size)
        ]
        for y in range(0, labels.shape[0], size)
    ]
    assert regions_with_boundary(labels, size).tolist() == expected


def test_another_label_can_be_ignored():
    labels = torch.zeros(16, 32, dtype=torch.long)
    labels[:, 20:] = 7
    assert regions_with_boundary(labels, 16).tolist() == [[False, True]]
    assert regions_with_boundary(labels, 16, ignore_index=7).tolist() == [[False, False]]
    assert near_boundary(labels, 2).any()
    assert not near_boundary(labels, 2, ignore_index=7).any()


@every_label_map
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


def content_sample(labels, decisions, gate_logits, img_shape):
    return dict(
        gt_sem_seg=dict(data=labels[None]),
        scale_map=dict(data=torch.tensor([decisions], dtype=torch.float)),
        gate_logits=dict(data=torch.tensor([gate_logits], dtype=torch.float)),
        img_shape=img_shape,
        coarse_patch_size=32,
    )


def evaluate(metric, *samples):
    metric.dataset_meta = META
    metric.process({}, list(samples))
    return metric.evaluate(size=len(samples))


def test_content_of_a_hand_made_gate():
    labels = torch.zeros(64, 64, dtype=torch.long)  # sky; the lower right region holds a car of 8x8 pixels
    labels[:32, 32:] = 1  # road fills the upper right region
    labels[40:48, 40:48] = 2
    labels[:8, :8] = 255
    follows = content_sample(labels, [[1, 1], [1, 0]], [[1, 1], [1, -1]], (64, 64))
    metrics = evaluate(GateContentMetric(), follows)
    sky = 2 * 32 * 32 - 64
    expected = {'auc': 1, 'coarse.sky': sky / (sky + 32 * 32 - 64), 'coarse.road': 1, 'coarse.car': 0}
    assert metrics == pytest.approx(expected)
    contrary = content_sample(labels, [[0, 0], [0, 1]], [[-1, -1], [-1, 1]], (64, 64))
    assert evaluate(GateContentMetric(), contrary)['auc'] == 0
    assert evaluate(GateContentMetric(), contrary)['coarse.car'] == 1
    both = evaluate(GateContentMetric(), follows, contrary)
    assert both['coarse.road'] == 0.5
    assert both['auc'] == 0.5


def test_boundaries_of_shapes_count_apart():
    labels = torch.zeros(64, 64, dtype=torch.long)
    labels[:32, 48:] = 1  # sky meets road in the upper right region
    labels[32:, :32] = 2  # a car fills the lower left region, without a boundary in it
    labels[40:48, 40:48] = 2
    sample = content_sample(labels, [[1, 1], [1, 1]], [[1, 3], [2, 0]], (64, 64))
    metric = GateContentMetric()
    metric.dataset_meta = META | dict(shape_classes=('car',))
    metric.process({}, [sample])
    metrics = metric.evaluate(size=1)
    assert metrics['auc_shapes'] == 1  # the lower right region has the lowest logit
    assert metrics['auc'] == 0.5  # of four pairs one region with a boundary wins both of its own and one loses both


def test_content_counts_in_the_regions_of_the_resized_image():
    """Labels keep their full resolution; the gate saw an image of half that size, not a multiple of the region."""
    labels = torch.zeros(80, 140, dtype=torch.long)
    labels[:, 130:] = 1  # pixels 65.. of the resized image: the third column of regions
    gate_logits = [[1, 1, -1], [1, 1, -1]]
    metrics = evaluate(GateContentMetric(), content_sample(labels, [[1, 1, 0], [1, 1, 0]], gate_logits, (40, 70)))
    assert metrics['auc'] == 1
    assert metrics['coarse.road'] == 0
    assert metrics['coarse.sky'] == pytest.approx(64 / 65)
    assert math.isnan(metrics['coarse.car'])


@every_label_map
def test_boundary_iou_is_iou_on_masked_labels(labels):
    predictions = torch.randint(3, labels.shape, generator=torch.Generator().manual_seed(2))
    samples = [dict(pred_sem_seg=dict(data=predictions[None]), gt_sem_seg=dict(data=labels[None]))]
    masked = labels.masked_fill(~near_boundary(labels, 2), 255)
    boundary = evaluate(BoundaryIoUMetric(distance=2, iou_metrics=['mIoU']), *samples)
    plain = evaluate(IoUMetric(iou_metrics=['mIoU']), dict(samples[0], gt_sem_seg=dict(data=masked[None])))
    assert {f'boundary/{name}' for name in plain} == set(boundary)
    assert [boundary[f'boundary/{name}'] for name in plain] == pytest.approx(list(plain.values()), nan_ok=True)
    assert torch.equal(samples[0]['gt_sem_seg']['data'], labels[None])


@every_label_map
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
