import pytest
import torch
import torch.nn.functional as F
from torch import nn

from msvit_mm.ops.macs import count_macs, encoder_macs


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
