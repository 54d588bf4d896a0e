"""Registers and rotary positions; that they are timm's stands in tests/test_checkpoints/test_convert_dino.py."""

import pytest
import torch

from msvit_mm.backbones.layers import PackedSequences, Stream
from msvit_mm.ops.rotary import angles_of, rotate, rotation_of

ROPE = dict(rope=dict(temperature=100.0))


def test_products_of_rotated_tokens_know_their_distance_alone():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 2, 16, generator=generator, dtype=torch.float64)  # (1, heads, d) each
    places = torch.rand(5, 2, 2, generator=generator, dtype=torch.float64) * 2 - 1
    shifted = places + torch.tensor([0.3, -0.2], dtype=torch.float64)
    products = []
    for first, second in (places.unbind(1), shifted.unbind(1)):
        pairs = (query, first), (key, second)
        turned = (rotate(x.expand(5, -1, -1), rotation_of(angles_of(y, 16, 100.0))) for x, y in pairs)
        products.append(torch.stack(list(turned)).prod(0).sum(-1))
    torch.testing.assert_close(*products)
    still = rotation_of(angles_of(torch.zeros(1, 2, dtype=torch.float64), 16, 100.0))
    assert torch.equal(rotate(query, still), query)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(num_registers=-1), 'num_registers: wanted a whole number of at least 0, got -1'),
        (dict(num_registers=1.5), 'num_registers: wanted a whole number of at least 0, got 1.5'),
        (dict(rope=dict(base=3.0)), r"rope: wanted dict\(temperature=...\) above 0, got {'base': 3.0}"),
        (dict(rope=dict(temperature=0.0)), 'above 0, got'),
        (dict(rope=dict(temperature='100')), "above 0, got {'temperature': '100'}"),
        (dict(rope=True), r'rope: wanted dict\(temperature=...\) above 0, got True'),
        (dict(num_registers=2, attention_scope='region', with_cls_token=False), "attention_scope='region' needs"),
    ],
)
def test_wrong_words(make_msvit, words, message):
    with pytest.raises(ValueError, match=message):
        make_msvit(**words)


@pytest.mark.parametrize(
    ('own', 'saved', 'message'),
    [
        ({}, ROPE, 'wanted the weights of a network of a position embedding, got one of rotary positions'),
        (ROPE, {}, 'wanted the weights of a network of rotary positions, got one of a position embedding'),
        ({}, dict(num_registers=2), 'registers: wanted 0, got 2'),
        (dict(num_registers=4), {}, 'registers: wanted 4, got 0'),
        (dict(num_registers=4), dict(num_registers=2), 'registers: wanted 4, got 2'),
    ],
    ids=str,
)
def test_checkpoints_of_another_kind(make_msvit, own, saved, message):
    with pytest.raises(ValueError, match=message):
        make_msvit(**own).load_state_dict(make_msvit(**saved).state_dict(), strict=False)


def test_four_tokens_that_merge_are_the_coarse_token(make_msvit):
    """Of regions of one colour: they have its pixels, and turn by the mean of their centres."""
    model = make_msvit(**ROPE, num_registers=2)
    images = torch.randn(1, 3, 2, 3).repeat_interleave(32, 2).repeat_interleave(32, 3)

    def merge_regions(index, active, keys):
        tokens = torch.arange(len(active.tokens))
        return active if index else active.merge(torch.where(tokens < 3, tokens, 3 + (tokens - 3) // 4))

    with torch.no_grad():
        (wanted,) = model(images, torch.ones(1, 2, 3))
        with model.configured(between=(merge_regions,)):
            (features,) = model(images, torch.zeros(1, 2, 3))
        (fine,) = model(images, torch.zeros(1, 2, 3))
    torch.testing.assert_close(features, wanted)
    assert not torch.allclose(fine, wanted, atol=1e-3)


def test_tokens_that_leave_take_their_angles_along():
    angles = torch.arange(4.0)[:, None]
    stream = Stream(torch.randn(4, 8), PackedSequences([3, 1], torch.tensor([0, 0, 0, 1])), angles=angles)
    assert stream.leave(torch.tensor([False, True, False, False])).angles.flatten().tolist() == [0, 2, 3]


def test_registers_alone_change_the_features_and_freeze_with_their_stage(make_msvit):
    images = torch.randn(2, 3, 64, 96)
    model = make_msvit(num_registers=2, frozen_stages=1)
    with torch.no_grad():
        (before,) = model(images)
        model.reg_token.data += 1
        assert not torch.allclose(model(images)[0], before)
    assert not model.reg_token.requires_grad and model.get_layer_depth('backbone.reg_token', 'backbone.')[0] == 0
