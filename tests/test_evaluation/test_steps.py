"""Shares of tokens that merged or left."""

import pytest
import torch

from msvit_mm.evaluation import ComplexityMetric
from msvit_mm.evaluation.steps import token_shares

SCALES = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # 3 coarse tokens and 4 fine ones, of which two lie beyond the image


def test_every_token_counts_once_whatever_its_size():
    groups = torch.tensor([[0, 0, 1], [0, 0, 2], [0, 0, 1]])
    layers = torch.tensor([[2, 2, 4], [2, 2, 3], [4, 4, 4]])
    # tokens: coarse 0 (group 0), fine 1 and 2, coarse below (group 0), coarse below right (group 1)
    shares = token_shares(SCALES, 2, groups, layers)
    assert shares == pytest.approx(
        dict(merged_fine=0, merged_coarse=2 / 5, merged_mixed=2 / 5, left_before_2=1 / 5, left_before_3=1 / 5)
    )
    assert set(token_shares(SCALES, 2, None, layers)) == {'left_before_2', 'left_before_3'}
    assert token_shares(SCALES, 2, torch.arange(9).view(3, 3)) == dict(merged_fine=0, merged_coarse=0, merged_mixed=0)


def test_the_metric_has_them_where_steps_act():
    kinds = dict(scale_map=('scale', 32), merge_map=('groups', 16), exit_map=('layers', 16))
    sample = dict(
        cost_ratio=0.5, num_tokens=5, backbone_gmacs=1.0, choice_maps=kinds, scale_map=dict(data=SCALES[None])
    )
    metric = ComplexityMetric()
    for last in (4, 3):
        layers = torch.tensor([[[last, last, 4], [last, last, 4], [4, 4, 4]]])
        groups = torch.tensor([[[0, 0, 1], [0, 0, 1], [2, 2, 3]]])
        metric.process({}, [sample | dict(exit_map=dict(data=layers), merge_map=dict(data=groups))])
    metrics = metric.compute_metrics(metric.results)
    assert metrics['left_before_3'] == pytest.approx(0.1) and metrics['merged_fine'] == pytest.approx(0.4)
    plain = ComplexityMetric()
    plain.process({}, [sample | dict(choice_maps=dict(scale_map=('scale', 32)))])
    assert not {name for name in plain.compute_metrics(plain.results) if name.startswith(('merged', 'left'))}


def test_regions_that_the_image_cuts_are_no_smaller():
    """Regions of 4 x 4 cells over 4 x 5: their size is not the quotient of the maps' widths."""
    groups = torch.arange(20).view(4, 5)
    groups[0, 4] = groups[1, 4] = 20
    shares = token_shares(torch.tensor([[1.0, 0.0]]), 4, groups)
    assert shares == pytest.approx(dict(merged_fine=2 / 5, merged_coarse=0, merged_mixed=0))
