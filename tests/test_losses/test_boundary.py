import pytest
import torch

from msvit_mm.losses import BoundaryGateLoss


def test_boundary_loss_is_the_cross_entropy_of_what_the_labels_want():
    labels = torch.zeros(2, 20, 48, dtype=torch.long)  # regions of 16 pixels: 2 x 3, the lower ones cut
    labels[0, 3, 20] = 4
    labels[1, 18, 40] = 255
    logits = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = BoundaryGateLoss(weight=2.0)(logits, labels, coarse_patch_size=16)['loss_gate_boundary']
    probability = logits.sigmoid().clone()
    probability[0, 0, 1] = 1 - probability[0, 0, 1]  # the one region with a boundary should be fine
    torch.testing.assert_close(loss, -2 * probability.log().mean())
    gradient = torch.autograd.grad(loss, logits)[0]
    assert gradient[0, 0, 1] > 0
    assert (gradient < 0).sum() == 11


def test_boundary_loss_wants_as_many_regions_as_labels_have():
    with pytest.raises(ValueError, match=r'size'):
        BoundaryGateLoss()(torch.zeros(2, 2, 3), torch.zeros(2, 32, 32, dtype=torch.long), coarse_patch_size=16)
