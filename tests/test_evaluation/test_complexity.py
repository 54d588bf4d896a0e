import pytest
import torch

from msvit_mm.evaluation import ComplexityMetric


def sample(num_coarse, num_tokens):
    scale_map = torch.zeros(1, 2, 3)
    scale_map.view(-1)[:num_coarse] = 1
    return dict(
        scale_map=dict(data=scale_map), num_tokens=num_tokens, backbone_gmacs=0.1 * num_tokens, gmacs=num_tokens
    )


def test_means_over_images():
    metric = ComplexityMetric()
    metric.process({}, [sample(0, 24), sample(3, 15)])
    metric.process({}, [sample(6, 6)])
    expected = dict(coarse_ratio=0.5, num_tokens=15, backbone_gmacs=1.5, gmacs=15)
    assert metric.evaluate(size=3) == pytest.approx(expected)


def test_predictions_without_a_gate_are_refused():
    with pytest.raises(ValueError, match=r"needs predictions with a scale_map, got fields \['num_tokens', 'seg'\]"):
        ComplexityMetric().process({}, [dict(seg=1, num_tokens=2)])
