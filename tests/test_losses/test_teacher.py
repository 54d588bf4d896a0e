"""A trained network teaches class scores; it is no part of the model that learns."""

import re

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS
from torch import nn

from msvit_mm.checkpoints.starting import use_checked_init
from msvit_mm.losses import TeacherLoss


@MODELS.register_module()
class MeanColour(nn.Module):
    """Scores of a pixel, or of an image, that are multiples of its colours."""

    def __init__(self, num_classes=4, as_maps=True, data_preprocessor=None, init_cfg=None):
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 2, stride=2)
        self.norm = nn.BatchNorm2d(num_classes)
        self.as_maps = as_maps

    def init_weights(self):
        self.loaded = True

    def forward(self, images, data_samples, mode):
        assert mode == 'tensor' and not self.training
        scores = self.norm(self.conv(images))
        return scores if self.as_maps else scores.mean((2, 3))


def make(loss_words=(), **words):
    stored = dict(type='Pretrained', checkpoint='of the colours')
    return TeacherLoss(dict(type='MeanColour', init_cfg=stored, **words), **dict(loss_words))


IMAGES = torch.randn(2, 3, 8, 12)


@pytest.mark.parametrize('temperature', [1.0, 2.0])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('as_maps', [True, False])
def test_equals_the_formula(temperature, weighted, as_maps):
    loss = make(dict(weight=0.5, temperature=temperature), as_maps=as_maps)
    taught = loss.scores(IMAGES)
    scores, weights = torch.randn_like(taught), torch.rand(4) if weighted else None
    probabilities = (taught / temperature).softmax(1).movedim(1, -1)
    terms = -(probabilities * (scores / temperature).log_softmax(1).movedim(1, -1)).sum(-1)
    expected = 0.5 * temperature**2 * (terms * (probabilities @ weights if weighted else 1)).mean()
    torch.testing.assert_close(loss(scores, IMAGES, weights)['loss_teacher'], expected)


@pytest.mark.parametrize('weights', [None, torch.tensor([1.0, 3.0, 0.5, 1.0])])
def test_its_own_scores_are_the_minimum(weights):
    loss = make()
    scores = loss.scores(IMAGES).requires_grad_()
    loss(scores, IMAGES, weights)['loss_teacher'].backward()
    torch.testing.assert_close(scores.grad, torch.zeros_like(scores), atol=1e-7, rtol=0)


def test_maps_are_resized_to_those_of_the_model():
    loss = make()
    scores = torch.zeros(2, 4, 8, 12)  # twice the teacher's
    assert loss(scores, IMAGES)['loss_teacher'].isclose(torch.tensor(4.0).log())  # whatever it teaches


def test_it_is_no_part_of_the_model():
    model = nn.Sequential(make())
    model[0].init_weights()
    assert model[0].scores(IMAGES).shape == (2, 4, 4, 6)
    model.train()
    (network,) = model[0]._network
    assert network.loaded and not network.training and not any(x.requires_grad for x in network.parameters())
    assert not model.state_dict() and not list(model.parameters())
    before = network.norm.running_mean.clone()
    model[0](torch.zeros(2, 4, 4, 6), IMAGES)
    assert torch.equal(network.norm.running_mean, before)


def test_a_training_draws_what_it_would_draw_without_a_teacher():
    torch.manual_seed(0)
    make().init_weights()
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))


def test_weights_of_a_file(tmp_path, tiny_arch):
    """What ``init_cfg`` names is loaded when a training begins, and a missing file is named."""
    use_checked_init()
    path = tmp_path / 'teacher.pth'
    backbone = dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), gate=dict(type='FixedGate', scale='fine'))
    head = dict(type='FCNHead', in_channels=32, channels=8, num_classes=5, norm_cfg=dict(type='GN', num_groups=2))
    teacher = dict(type='GatedEncoderDecoder', backbone=backbone, decode_head=head)
    trained = MODELS.build(teacher)
    torch.save(dict(state_dict=trained.state_dict()), path)
    loss = TeacherLoss(teacher | dict(init_cfg=dict(type='Pretrained', checkpoint=str(path))))
    loss.init_weights()
    images = torch.randn(2, 3, 64, 96)
    wanted = trained.eval()(images, None, mode='tensor')
    torch.testing.assert_close(loss.scores(images), wanted)
    path.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=str(path)):
        TeacherLoss(teacher | dict(init_cfg=dict(type='Pretrained', checkpoint=str(path)))).init_weights()


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r'temperature must lie in \(0, inf\), got 0'):
        make(dict(temperature=0))
    on_backbone = dict(type='GatedEncoderDecoder', backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='x.pth')))
    normal = dict(type='Normal', layer='Conv2d')
    for untrained in (on_backbone, dict(init_cfg=normal), dict(init_cfg=[normal])):
        got = re.escape(f'got init_cfg={untrained.get("init_cfg")}')
        with pytest.raises(ValueError, match=f"wanted a trained network, init_cfg=.*'Pretrained'.*, {got}"):
            TeacherLoss(untrained)
    TeacherLoss(dict(init_cfg=dict(type=PretrainedInit, checkpoint='x.pth')))  # as pure-Python configs say it
    message = 'wanted scores like those of the model, maps of 5 classes, got maps of 4 classes'
    with pytest.raises(ValueError, match=message):
        make()(torch.zeros(2, 5, 4, 6), IMAGES)
    with pytest.raises(
        ValueError, match='wanted scores like those of the model, rows of 4 classes, got maps of 4 classes'
    ):
        make()(torch.zeros(2, 4), IMAGES)
    other = make(data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3, size=(32, 32)))
    other.check_normalisation(dict(mean=[0.0] * 3, std=[1.0] * 3, bgr_to_rgb=False))
    with pytest.raises(ValueError, match=r"wanted images normalised as the model's are, by .*2.0.*, got .*1.0"):
        other.check_normalisation(dict(mean=[0.0] * 3, std=[2.0] * 3))
    make().check_normalisation(dict(mean=[1.0] * 3))
