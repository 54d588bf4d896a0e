import pytest
import torch

from msvit_mm.ops.packing import Packing

MASKS = {
    'random': torch.rand(3, 7, generator=torch.Generator().manual_seed(0)) < 0.5,
    'one image empty': torch.tensor([[True, False, True], [False, False, False], [True, True, True]]),
    'all': torch.ones(2, 5, dtype=torch.bool),
}
pytestmark = pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)


def test_unpack_undoes_pack(mask):
    tokens = torch.randn(*mask.shape, 4)
    packing = Packing.select(mask)
    assert torch.equal(packing.unpack(packing.pack(tokens)), tokens * mask.unsqueeze(-1))
    packed = torch.randn(int(mask.sum()), 4)
    assert torch.equal(packing.pack(packing.unpack(packed)), packed)


def test_images_follow_one_another(mask):
    packing = Packing.select(mask)
    assert packing.lengths == mask.sum(1).tolist()
    assert packing.shape == tuple(mask.shape)
    assert packing.image_of_token().tolist() == [b for b, row in enumerate(mask) for _ in range(int(row.sum()))]
    for part, row, image in zip(packing.index.split(packing.lengths), mask, range(len(mask)), strict=True):
        assert part.tolist() == [image * mask.shape[1] + n for n in range(mask.shape[1]) if row[n]]


def test_places_invert_the_index(mask):
    packing = Packing.select(mask)
    assert torch.equal(packing.places().flatten()[packing.index], torch.arange(len(packing.index)))


def test_gradient_reaches_the_selected_tokens_alone(mask):
    tokens = torch.randn(*mask.shape, 4, requires_grad=True)
    packing = Packing.select(mask)
    weights = torch.randn(*mask.shape, 4)
    (packing.unpack(packing.pack(tokens)) * weights).sum().backward()
    assert torch.equal(tokens.grad, weights * mask.unsqueeze(-1))
