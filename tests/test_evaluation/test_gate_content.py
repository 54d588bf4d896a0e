import math

import numpy as np
import pytest
import torch

from msvit_mm.evaluation import GateContentMetric, area_under_curve

META = dict(classes=('sky', 'road', 'car'))


def content_sample(labels, decisions, gate_logits, img_shape):
    return dict(
        gt_sem_seg=dict(data=labels[None]),
        scale_map=dict(data=torch.tensor([decisions], dtype=torch.float)),
        gate_logits=dict(data=torch.tensor([gate_logits], dtype=torch.float)),
        img_shape=img_shape,
        choice_maps=dict(scale_map=('scale', 32), gate_logits=('logits', 32)),
    )


def evaluate(metric, *samples):
    metric.dataset_meta = META
    metric.process({}, list(samples))
    return metric.evaluate(size=len(samples))


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


def test_maps_are_found_by_their_kind():
    sample = content_sample(torch.arange(64).expand(64, 64) // 32, [[1, 1], [1, 0]], [[1, 1], [1, -1]], (64, 64))
    sample['scales'], sample['scores'] = sample.pop('scale_map'), sample.pop('gate_logits')
    sample['choice_maps'] = dict(scores=('logits', 16), scales=('scale', 16), routes=('routes', 4))
    sample['scales']['data'] = torch.eye(4)[None]
    sample['scores']['data'] = torch.arange(16.0).view(1, 4, 4)
    assert evaluate(GateContentMetric(), sample)['coarse.sky'] == 0.25


def test_each_of_three_scales_has_its_own_curve():
    """Against the boundaries within its own nodes; what is coarse at either scale counts as coarse."""
    labels = torch.zeros(32, 64, dtype=torch.long)
    labels[:16, 40:48] = 1  # road crosses a node of 16 pixels in the right region
    nodes, node_logits = torch.tensor([[1.0, 1, 0, 1], [0, 1, 1, 1]]), torch.tensor([[2.0, 2, 1, 2], [2, 0, 2, 2]])
    sample = content_sample(labels, [[1, 0]], [[1, -1]], (32, 64))
    sample['scale_map_32'], sample['gate_logits_32'] = sample.pop('scale_map'), sample.pop('gate_logits')
    sample |= dict(scale_map_16=dict(data=nodes[None]), gate_logits_16=dict(data=node_logits[None]))
    sides = dict(scale=('scale_map_32', 'scale_map_16'), logits=('gate_logits_32', 'gate_logits_16'))
    sample['choice_maps'] = {
        name: (kind, side) for kind, names in sides.items() for name, side in zip(names, (32, 16), strict=True)
    }
    metrics = evaluate(GateContentMetric(), sample)
    assert metrics['auc_32'] == 1 and metrics['auc_16'] == pytest.approx(6 / 7)  # one of seven has a lower logit
    assert metrics['coarse.road'] == 0 and metrics['coarse.sky'] == pytest.approx(1 - 128 / (32 * 64 - 128))


@pytest.mark.parametrize(
    ('sample', 'got'),
    [
        (dict(img_shape=(64, 64)), r"\['img_shape'\]"),
        (dict(choice_maps=dict(routes_s4=('routes', 4), merges_s8=('merges', 8))), r"\['merges', 'routes'\]"),
    ],
)
def test_predictions_without_regions_are_refused(sample, got):
    with pytest.raises(ValueError, match=f'wanted predictions with the scales and logits of regions, got {got}'):
        evaluate(GateContentMetric(), sample)
