"""Every kind of choices has a drawing, found by the kind of the maps and not by their names."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData

from msvit_mm.visualization import draw_choices, draw_panel, draw_scale_map, draw_summary, has_choices, maps_of_kind
from msvit_mm.visualization.groups import draw_groups

SIZE = (40, 56)
IMAGE = np.random.default_rng(0).integers(0, 200, (80, 112, 3), dtype=np.uint8)


def regions():
    scale_map = torch.tensor([[[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]]])
    metainfo = dict(img_shape=SIZE, patch_size=8, coarse_patch_size=16)
    metainfo |= dict(choice_maps=dict(logits_of_it=('logits', 16), map_of_it=('scale', 16)))
    fields = dict(map_of_it=PixelData(data=scale_map), logits_of_it=PixelData(data=-scale_map), num_tokens=27)
    return BaseDataElement(metainfo=metainfo, **fields)


def routes():
    metainfo = dict(img_shape=SIZE, node_depths={'0_0': 2, '1_1': 1})
    metainfo |= dict(choice_maps=dict(routes_s4=('routes', 4), merges_s8=('merges', 8)))
    maps = dict(routes_s4=torch.ones(1, 10, 14), merges_s8=torch.zeros(2, 5, 7))
    return BaseDataElement(metainfo=metainfo, cost_ratio=0.75, **{k: PixelData(data=x) for k, x in maps.items()})


def test_maps_of_a_kind():
    assert list(maps_of_kind(regions(), 'scale')) == ['map_of_it']
    assert list(maps_of_kind(routes(), 'routes', 'merges')) == ['routes_s4', 'merges_s8']
    assert maps_of_kind(BaseDataElement(), 'scale') == {}


def test_regions_are_drawn_in_the_size_that_the_backbone_saw():
    panel, words = draw_panel(IMAGE, regions())
    assert words == 'coarse ratio 0.58'
    small = IMAGE.reshape(40, 2, 56, 2, 3).mean((1, 3))
    drawn = draw_scale_map(small.astype(np.uint8), regions().map_of_it.data[0].numpy(), 16, 8)
    assert panel.shape == drawn.shape == (80, 112, 3)
    assert np.abs(panel.astype(int) - drawn).max() <= 2  # rounding of the resized image
    assert draw_choices(IMAGE, regions(), 'a').axes[0].get_title() == 'a: coarse ratio 0.58, 27 tokens'
    assert draw_summary([regions()]) is None


def test_choices_beyond_the_image_are_drawn_over_what_it_is_padded_with():
    """Detectors pad a batch, and the backbone sees the padding, too."""
    sample = regions()
    sample.set_metainfo(dict(img_shape=(33, 40), batch_input_shape=SIZE))
    panel, _ = draw_panel(np.full((66, 80, 3), 90, np.uint8), sample)
    alone, _ = draw_panel(np.zeros((*SIZE, 3), np.uint8), regions())
    assert panel.shape == alone.shape == (80, 112, 3)
    outside = np.ones((80, 112), bool)
    outside[:66, :80] = False
    assert np.array_equal(panel[outside], alone[outside])
    assert (panel[:66, :80] == 90).any()


def test_routes_are_drawn_by_depth_and_summed_up():
    panel, words = draw_panel(IMAGE, routes())
    assert words == '0.75 of PVTv2, depth 2.0' and np.array_equal(panel, np.full(SIZE, 2.0))
    assert draw_choices(IMAGE, routes(), 'a').get_suptitle() == 'a: 0.75 of the cost of PVTv2'
    assert draw_summary([routes(), routes()]) is not None


def test_predictions_without_choices_are_refused():
    sample = BaseDataElement(img_shape=SIZE, metainfo=dict(choice_maps=dict(gate_logits=('logits', 16))))
    assert has_choices(regions()) and has_choices(routes())
    assert not has_choices(sample) and not has_choices(BaseDataElement())
    with pytest.raises(ValueError, match=r"wanted a prediction with choices of \['routes', 'scale'\], got fields \["):
        draw_panel(IMAGE, sample)


def test_what_merged_and_left_is_drawn_beside():
    """A picture each: cells of one token have one colour, and only tokens that left are darkened."""
    sample = regions()
    groups, layers = torch.arange(35).view(1, 5, 7), torch.full((1, 5, 7), 4)
    groups[0, 0, :3], layers[0, 4] = 0, 2
    sample.set_metainfo(dict(choice_maps=sample.choice_maps | dict(of_groups=('groups', 8), of_layers=('layers', 8))))
    sample.set_field(PixelData(data=groups), 'of_groups')
    sample.set_field(PixelData(data=layers), 'of_layers')
    figure = draw_choices(IMAGE, sample, 'a')
    assert [ax.get_title() for ax in figure.axes] == [
        'a: coarse ratio 0.58, 27 tokens',
        'merged: 33 tokens after the last layer',
        'dark: the 20% whose tokens left early',
    ]
    merged, left = (ax.get_images()[0].get_array() for ax in figure.axes[1:])
    seen = cv2.resize(IMAGE, SIZE[::-1])
    assert (merged[:8, :24] == seen[:8, :24].reshape(-1, 3).mean(0).astype(np.uint8)).all()
    assert (left[:32] == seen[:32]).all() and left[32:].mean() < seen[32:].mean() / 2
    with pytest.raises(ValueError, match=r'^an image of 40x56 pixels has \(5, 7\) cells, got a map of \(5, 8\)$'):
        draw_groups(seen, np.zeros((5, 8)), 8)
