import pytest
import torch

from msvit_mm.ops.maps import add_at, to_map, to_tokens
from msvit_mm.ops.packing import Packing


@pytest.mark.parametrize('batch', [1, 2])
def test_maps_lie_channels_last_also_for_one_image(batch):
    tokens = torch.randn(batch, 20, 8)
    x = to_map(tokens, (4, 5))
    assert x.stride() == (160, 1, 40, 8)  # a stride of 8 for one image would make convolutions several times slower
    assert torch.equal(to_tokens(x), tokens)


@pytest.mark.parametrize('density', [0.0, 0.4, 1.0])
def test_others_than_the_packed_stay_bit_for_bit(density):
    mask = torch.rand(2, 20) < density
    tokens, packing = torch.randn(2, 20, 8), Packing.select(mask)
    branch = torch.randn(len(packing.index), 8, dtype=torch.float64)
    added = add_at(tokens, branch, packing)
    assert added.dtype == torch.float32
    assert torch.equal(added[~mask], tokens[~mask])
    assert torch.equal(added[mask], tokens[mask] + branch.float())
