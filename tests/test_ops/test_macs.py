import pytest
import torch
import torch.nn.functional as F
from torch import nn

from msvit_mm.ops.macs import count_macs, encoder_macs
from msvit_mm.ops.packing import Packing
from msvit_mm.ops.regions import RegionGrid

SIZES = [(64, 96), (70, 90), (33, 161)]


def test_counter_sees_products_and_attention():
    linear = nn.Linear(5, 7)
    assert count_macs(linear, torch.rand(3, 5)) == 3 * 5 * 7
    q = torch.rand(1, 2, 9, 4)
    assert count_macs(F.scaled_dot_product_attention, q, q, q) == 2 * 2 * 9 * 9 * 4


def test_encoder_accepts_tensors_and_equals_the_published_size_of_deit_small():
    deit_small = dict(embed_dims=384, ffn_macs=2 * 384 * 1536, num_layers=12)
    per_image = encoder_macs(torch.tensor([[197.0, 10.0]]).double(), **deit_small)
    assert per_image.tolist() == [[encoder_macs(197, **deit_small), encoder_macs(10, **deit_small)]]
    patch_embedding = 196 * 384 * 3 * 16**2
    assert (encoder_macs(197, **deit_small) + patch_embedding) / 1e9 == pytest.approx(4.6, abs=0.05)


@pytest.mark.parametrize(('height', 'width'), SIZES)
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(with_cls_token=False),
        dict(layer_cfgs=dict(ffn_type='swiglu_fused')),
        dict(patch_size=8, gate=dict(type='ScaleGate', sample_size=8, pixels='raw', hidden_dims=16)),
        dict(gate=dict(type='EdgeGate'), in_channels=5),
    ],
    ids=str,
)
def test_closed_form_is_what_a_forward_pass_dispatches(make_msvit, random_decisions, height, width, options):
    model = make_msvit(**options)
    images = torch.rand(3, options.get('in_channels', 3), height, width)
    decisions = random_decisions(3, height, width)
    with torch.no_grad():
        _, gate = model.forward_gated(images, decisions)
        dispatched = count_macs(model, images, decisions)
        fine_only = count_macs(model, images[:1], torch.zeros_like(decisions[:1]))
    assert model.count_macs(gate.num_tokens, (height, width)).sum() == dispatched
    cells = -(-height // model.patch_size) * -(-width // model.patch_size)
    assert model.count_macs(torch.tensor([cells]), (height, width)) == fine_only


def test_parts_are_what_each_part_dispatches(make_msvit):
    model = make_msvit()
    images, grid = torch.rand(1, 3, 70, 90), RegionGrid(70, 90, 16, 32)
    parts = model.macs_of_parts(torch.tensor([7, 30]), (70, 90))
    assert parts['gate'] == count_macs(model.gate, images)
    chosen = Packing.select(torch.rand(1, 1 + 9 * 5) < torch.tensor([1.0] + [0.5] * 45))
    embedded = model.macs_of_parts(torch.tensor(len(chosen.index) - 1), (70, 90))['embedding']
    assert embedded == count_macs(model.embed, images, grid, chosen)
    assert torch.equal(sum(parts.values()), model.count_macs(torch.tensor([7, 30]), (70, 90)))
    dense = model.dense_macs_of_parts((70, 90))
    assert dense['gate'] == 0
    assert dense['encoder'] == parts['encoder'][1]  # 30 cells
    assert dense['embedding'] == parts['embedding'][1]
