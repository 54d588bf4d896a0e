"""The gate with context sees its neighbours and its place, and nothing further."""

import pytest
import torch

from msvit_mm.gates import ContextGate
from msvit_mm.gates.context import _position


def make_gate(**words):
    torch.manual_seed(0)
    gate = ContextGate(coarse_patch_size=16, **words).double()
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return gate


def test_a_region_is_decided_by_itself_and_its_neighbours_alone():
    gate = make_gate(with_position=False)
    images = torch.randn(1, 3, 112, 112, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(gate(images)[0, 3, 3], images)
    reached = gradient[0].abs().sum(0).unfold(0, 16, 16).unfold(1, 16, 16).sum((2, 3)) > 0  # by region
    wanted = torch.zeros(7, 7, dtype=torch.bool)
    wanted[1:6, 1:6] = True  # one region further for the blur and the convolution between halves
    assert reached[2:5, 2:5].all()
    assert not reached[~wanted].any()


def test_position_tells_equal_regions_apart():
    images = torch.zeros(1, 3, 96, 96, dtype=torch.float64)
    inner = slice(2, -2)  # beyond the reach of zeros around the image
    for with_position in (False, True):
        logits = make_gate(with_position=with_position)(images)[0, inner, inner]
        assert (logits.std() > 1e-6) == with_position


def test_a_mirrored_image_has_the_mirrored_positions():
    x = torch.randn(1, 24, 4, 6)

    planes = _position(x)
    torch.testing.assert_close(planes, planes.flip(3))
    assert planes[0, 0, :, 0].diff().gt(0).all() and planes.abs().max() <= 1


def test_shifted_logits_move_all_regions_alike():
    gate = make_gate()
    images = torch.randn(2, 3, 48, 80, dtype=torch.float64)
    before = gate(images)
    gate.shift_logits(0.75)
    torch.testing.assert_close(gate(images), before + 0.75)


def test_frozen_gate_does_not_learn():
    assert not ContextGate(frozen=True).learnable


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(coarse_patch_size=20), 'coarse_patch_size must be a multiple of 8, got 20'),
        (dict(initial_ratio=1.0), r'initial_ratio must lie in \(0, 1\), got 1.0'),
    ],
)
def test_bad_input(words, message):
    with pytest.raises(ValueError, match=message):
        ContextGate(**words)
