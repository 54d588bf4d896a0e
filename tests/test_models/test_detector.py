"""The detector over a stand-in for mmdet's, since mmdet itself and mmcv's ops are optional."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import nn

from msvit_mm.cli.config import load_config
from msvit_mm.evaluation import count_parts
from msvit_mm.models import SimpleFeaturePyramid

CONFIG = Path(__file__).parents[2] / 'configs/detection/dit_mask_rcnn_coco.py'
BACKBONE = dict(
    type='DynamicTokenRoutingTransformer',
    arch=dict(embed_dims=(8, 16, 40, 64), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2)),
    img_size=64,
)


class MaskRCNN(nn.Module):
    """The few lines of mmdet's two-stage detectors that the gated one builds on."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.neck = nn.Identity()

    def loss(self, batch_inputs, batch_data_samples):
        return dict(loss_bbox=sum(x.mean() for x in self.extract_feat(batch_inputs)))

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        for sample, scores in zip(batch_data_samples, self.extract_feat(batch_inputs)[-1], strict=True):
            sample.scores = scores
        return batch_data_samples


@pytest.fixture
def detector(monkeypatch):
    """The module that holds GatedMaskRCNN, over the stand-in."""
    for name in ('mmdet', 'mmdet.models', 'mmdet.models.detectors'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules['mmdet.models.detectors'].MaskRCNN = MaskRCNN
    MODELS.module_dict.pop('GatedMaskRCNN', None)
    yield importlib.import_module('msvit_mm.models.detector')
    sys.modules.pop('msvit_mm.models.detector')
    MODELS.module_dict.pop('GatedMaskRCNN')


def test_a_teacher_is_refused(detector):
    teacher = dict(type='TeacherLoss', teacher=dict(type='GatedMaskRCNN', backbone=BACKBONE))
    with pytest.raises(ValueError, match='teacher_loss: wanted a segmentor or a classifier, got GatedMaskRCNN'):
        detector.GatedMaskRCNN(backbone=BACKBONE, teacher_loss=teacher)


def test_losses_and_costs(detector, monkeypatch):
    model = detector.GatedMaskRCNN(backbone=BACKBONE, gate_loss=dict(type='BudgetLoss', budget=0.9)).train()
    passes, forward = [], model.backbone.forward_gated
    monkeypatch.setattr(model.backbone, 'forward_gated', lambda *args: passes.append(args) or forward(*args))
    images = torch.randn(2, 3, 64, 96)
    losses = model.loss(images, [])
    assert {'loss_bbox', 'loss_budget', 'cost_ratio', 'gmacs'} <= set(losses)
    model.eval()
    with torch.no_grad():
        first, second = model.predict(images, [BaseDataElement(), BaseDataElement()])
        assert len(passes) == 2
        maps, output = forward(images)
    assert torch.equal(second.scores, maps[-1][1])
    assert first.backbone_gmacs == pytest.approx(output.costs.total[0].item() / 1e9)
    assert first.reference_gmacs > 0 and first.num_tokens == output.num_tokens[0]
    assert first.cost_ratio == pytest.approx(first.backbone_gmacs / first.reference_gmacs)
    assert first.choice_maps['routes_s4'] == ('routes', 4) and 'gmacs' not in first


class CascadeRCNN(MaskRCNN):
    """Another detector of two stages."""


def test_any_two_stage_detector_is_one_line(detector):
    """Over MSViT under the simple feature pyramid: it learns with the gate, and predictions say what it chose."""
    gated = detector.gated_detector(CascadeRCNN)
    assert gated.__name__ == 'GatedCascadeRCNN' and issubclass(gated, CascadeRCNN)
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    backbone = dict(type='MSViT', arch=arch, img_size=(64, 96), gate=dict(type='ScaleGate', initial_ratio=0.5))
    model = gated(backbone=backbone, gate_loss=dict(type='BatchShapingLoss', coarse_ratio=0.5)).train()
    model.neck = SimpleFeaturePyramid(in_channels=32, out_channels=8)
    assert all(x.is_contiguous() for x in model.extract_feat(torch.randn(2, 3, 64, 96)))  # as mmcv's RoIAlign reads it
    losses = model.loss(torch.randn(2, 3, 64, 96), [])
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(x.grad is not None for x in model.parameters())
    with torch.no_grad():
        first, _ = model.eval().predict(torch.randn(2, 3, 64, 96), [BaseDataElement(), BaseDataElement()])
    assert first.scale_map.shape == (2, 3) and first.num_tokens >= 6 and first.backbone_gmacs > 0
    batch = dict(inputs=torch.randn(1, 3, 64, 96), data_samples=[BaseDataElement()])
    with torch.no_grad(), pytest.raises(ValueError, match='^count: wanted a segmentor or a .* got GatedCascadeRCNN'):
        count_parts(model, batch)
    with pytest.raises(ValueError, match="^out_type='tokens' needs one head .*, got Identity$"):
        gated(backbone=backbone | dict(out_type='tokens'))
    with pytest.raises(ValueError, match='^exits: wanted a segmentor of 3 classes, .* got GatedCascadeRCNN, which has'):
        gated(backbone=backbone | dict(exits=dict(layers=(1,), num_classes=3)))


def test_the_pyramid_has_a_level_of_every_stride():
    """Each is the convolved map at its scale, and the last is every second place of the one before."""
    neck = SimpleFeaturePyramid(in_channels=32, out_channels=8)
    x = torch.randn(2, 32, 5, 7)
    maps = neck((torch.zeros(1), x))
    assert [tuple(y.shape[1:]) for y in maps] == [(8, 20, 28), (8, 10, 14), (8, 5, 7), (8, 3, 4), (8, 2, 2)]
    torch.testing.assert_close(maps[2], neck.levels[2](x))
    torch.testing.assert_close(maps[4], maps[3][..., ::2, ::2])
    for y in maps[:4]:
        torch.testing.assert_close(y.mean(1), torch.zeros_like(y[:, 0]), rtol=0, atol=1e-5)
    sum(y.square().sum() + y.sum() for y in maps).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())
    with pytest.raises(ValueError, match='^SimpleFeaturePyramid: wanted at least 4 levels, got 3$'):
        SimpleFeaturePyramid(32, num_levels=3)


@pytest.mark.skipif(importlib.util.find_spec('mmdet') is not None, reason='mmdet is installed')
def test_without_mmdet_the_error_says_how_to_get_it():
    with pytest.raises(ImportError, match=r'needs mmdet, and mmcv with its compiled ops, got: .*pip install'):
        importlib.import_module('msvit_mm.models.detector')
    for config in CONFIG.parent.glob('*.py'):
        with pytest.raises(ValueError, match=f'{config.name}.: mmdet is not installed, .*MMCV_WITH_OPS=1'):
            load_config(config)
