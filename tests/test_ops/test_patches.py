import pytest
import torch
import torch.nn.functional as F
from torch import nn

from msvit_mm.ops import patches
from msvit_mm.ops.maps import mean_of_cells, spread, to_map, to_tokens
from msvit_mm.ops.patches import OpenTokens, depthwise

SIZE = (4, 12)


@pytest.mark.parametrize('patch', [1, 2, 4])
def test_tokens_of_a_patch_stand_together(patch):
    mask = torch.rand(2, 48 // patch**2) < 0.5
    opened = OpenTokens.select(mask, SIZE, patch)
    assert opened.packing.lengths == (patch**2 * mask.sum(1)).tolist()
    table = torch.zeros(2 * 48).index_fill(0, opened.packing.index, 1.0)
    assert torch.equal(table.view(2, *SIZE), spread(mask.float(), SIZE, patch))
    tokens = torch.randn(2, 48, 5)
    assert torch.equal(
        opened.packing.unpack(opened.packing.pack(tokens)), tokens * spread(mask.float(), SIZE, patch).view(2, 48, 1)
    )


@pytest.mark.parametrize('window_values', [1, 2**18])
@pytest.mark.parametrize('patch', [1, 2, 4])
def test_convolution_of_open_tokens_is_that_of_the_map(patch, window_values, monkeypatch):
    monkeypatch.setattr(patches, 'WINDOW_VALUES', window_values)  # a part for each patch, and all in one
    conv = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]]).bool().repeat_interleave(16 // patch**2, 1)
    opened, closed = (OpenTokens.select(x, SIZE, patch) for x in (mask, ~mask))
    hidden = torch.randn(len(opened), 6)
    wanted = to_tokens(conv(to_map(opened.packing.unpack(hidden), SIZE)))
    for others, with_gradient in ((opened, False), (closed, False), (opened, True)):
        with torch.set_grad_enabled(with_gradient):
            found = torch.cat(list(depthwise(conv, hidden, opened, others)))
        torch.testing.assert_close(found, others.packing.pack(wanted))
    nothing = OpenTokens.select(torch.zeros_like(mask), SIZE, patch)
    found = torch.cat(list(depthwise(conv, hidden[:0], nothing, opened)))
    assert torch.equal(found, conv.bias.expand(len(opened), -1))


def test_means_of_cells():
    tokens = torch.randn(2, 48, 5)
    wanted = to_tokens(F.avg_pool2d(to_map(tokens, SIZE), 2))
    torch.testing.assert_close(mean_of_cells(tokens, SIZE, 2), wanted)
    assert mean_of_cells(tokens, SIZE, 1) is tokens
