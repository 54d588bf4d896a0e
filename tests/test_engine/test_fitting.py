"""A gate fitted before training says what it was fitted to."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from msvit_mm.engine.fitting import TEACHERS, check_target, fit_gate, judge_gate, score, take_view
from msvit_mm.ops.tiling import regions_with_boundary

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]


@pytest.fixture
def make_model(tiny_arch, perturb):
    def make(**backbone):
        words = dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), gate=dict(type='ScaleGate', sample_size=8))
        config = dict(
            type='GatedEncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', mean=MEAN, std=STD, test_cfg=dict(size_divisor=32)),
            backbone=words | backbone,
            decode_head=dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3),
            gate_loss=dict(type='RatioLoss'),
            test_cfg=dict(mode='whole'),
        )
        return perturb(MODELS.build(ConfigDict(config))).eval()

    return make


def make_batches(count, size=(64, 96), seed=0):
    """Dark regions of one class, and bright ones of two."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        busy = torch.rand(2, 3, generator=generator) < 0.4
        pixels = busy.repeat_interleave(32, 0).repeat_interleave(32, 1)[: size[0], : size[1]]
        noise = torch.rand(size, generator=generator)
        image = (100 + 60 * pixels + 20 * noise).expand(3, *size).to(torch.uint8)
        sample = SegDataSample(
            gt_sem_seg=PixelData(data=(pixels & (noise > 0.5)).long()[None]),
            metainfo=dict(img_shape=size, ori_shape=size),
        )
        batches.append(dict(inputs=[image], data_samples=[sample]))
    return batches


def test_a_gate_learns_boundaries_and_nothing_else_changes(make_model):
    model = make_model()
    state = {name: x.clone() for name, x in model.state_dict().items()}
    before = judge_gate(model, make_batches(8, seed=1), ['boundary'], 0.6)['boundary']
    losses = fit_gate(model, make_batches(160), ['boundary'], 0.6, batch_size=4, steps=40)
    after = judge_gate(model, make_batches(8, seed=1), ['boundary'], 0.6)['boundary']
    assert before < 0.9 < 0.99 < after
    assert losses[-1] < losses[0] / 2
    moved = {name for name, x in model.state_dict().items() if not torch.equal(x, state[name])}
    assert moved and all(name.startswith('backbone.gate.') for name in moved)


@pytest.mark.parametrize('targets', [['utility'], ['boundary', 'utility'], ['uncertainty'], ['scales']], ids=str)
def test_every_target_lowers_its_loss(make_model, targets):
    model = make_model(out_indices=[0, 1] if targets == ['scales'] else -1)
    batches = make_batches(8)
    torch.manual_seed(0)
    losses = fit_gate(model, batches * 6, targets, 0.6, batch_size=4, steps=12, scales=(1.0,), lr=1e-2)
    assert sum(losses[-3:]) < sum(losses[:3])
    assert not model.backbone.training
    auc = judge_gate(model, batches, targets, 0.6)
    assert list(auc) == targets and all(0 <= x <= 1 for x in auc.values())


def test_losses_of_several_targets_add_up(make_model):
    firsts = []
    for targets in (['boundary'], ['uncertainty'], ['boundary', 'uncertainty']):
        torch.manual_seed(0)
        firsts += fit_gate(make_model(), make_batches(4), targets, 0.6, batch_size=4, steps=1)
    assert firsts[2] == pytest.approx(firsts[0] + firsts[1]) and min(firsts) > 0


def test_each_scale_of_three_has_scores_and_learns(make_model):
    model, batches = make_model(patch_sizes=(8, 16, 32)), make_batches(8)
    view, fine = take_view(model, batches[0]), (torch.zeros(1, 2, 3), torch.zeros(1, 4, 6))
    for name in TEACHERS:
        assert [x.shape for x in score(model, view, name)[0]] == [x.shape for x in fine]
    with torch.no_grad():
        (x,), (y,) = model.backbone(view.inputs, fine), model.backbone(view.inputs, (fine[0], 1 - fine[1]))
    apart = (x - y).square().mean(1) / x.square().mean()
    torch.testing.assert_close(score(model, view, 'scales')[0][1][0, 3, 1], apart[0, 6:8, 2:4].mean())
    torch.manual_seed(0)
    losses = fit_gate(model, batches * 6, ['boundary', 'utility'], 0.6, batch_size=4, steps=12, scales=(1.0,), lr=1e-2)
    assert sum(losses[-3:]) < sum(losses[:3])
    auc = judge_gate(model, batches[:4], ['boundary', 'utility'], 0.6)
    assert list(auc) == ['boundary_32', 'boundary_16', 'utility_32', 'utility_16']
    assert auc['boundary_32'] > 0.5


def test_each_scale_is_fitted_to_its_own_ratio(make_model, monkeypatch):
    """The smaller nodes are asked to be coarse more often, and become so."""
    model, batches = make_model(patch_sizes=(8, 16, 32)), make_batches(8)

    def score_brightness(model, view):
        scores = tuple(F.avg_pool2d(view.inputs.mean(1), side) for side in (32, 16))
        return scores, tuple(torch.ones_like(x).bool() for x in scores)

    monkeypatch.setitem(TEACHERS, 'brightness', score_brightness)
    fit_gate(model, batches * 15, ['brightness'], (0.2, 0.9), batch_size=4, steps=30, scales=(1.0,), lr=1e-2)
    with torch.no_grad():
        large, small = (x > 0 for x in model.backbone.gate(torch.cat([take_view(model, x).inputs for x in batches])))
    assert large.double().mean() < 0.5 < 0.7 < small.double().mean()


def test_scores_are_what_they_say(make_model):
    model = make_model()
    (batch,) = make_batches(1)
    view = take_view(model, batch)
    fine, coarse = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)

    boundary, _ = score(model, view, 'boundary')
    assert torch.equal(boundary[0].bool(), regions_with_boundary(batch['data_samples'][0].gt_sem_seg.data[0], 32))

    with torch.no_grad():
        (x,), (y,) = model.backbone(view.inputs, fine), model.backbone(view.inputs, coarse)
        apart = (x - y).square().mean(1) / x.square().mean()
    scales, _ = score(model, view, 'scales')
    torch.testing.assert_close(scales[0, 1, 2], apart[0, 2:4, 4:6].mean())

    with model.backbone.configured(gate=dict(type='FixedGate', scale='fine')), torch.no_grad():
        chances = model.encode_decode(view.inputs, [dict(img_shape=(64, 96))]).softmax(1)
    uncertainty, _ = score(model, view, 'uncertainty')
    entropy = -(chances * chances.log()).sum(1)
    torch.testing.assert_close(uncertainty[0, 0, 1], entropy[0, :32, 32:64].mean())

    utilities, known = score(model, view, 'utility')
    assert utilities.shape == known.shape == (1, 2, 3) and known.sum() == 3  # half of the regions are drawn


def test_views_are_resized_padded_and_of_one_window(make_model):
    (batch,) = make_batches(1, size=(50, 90))
    labels = batch['data_samples'][0].gt_sem_seg.data
    larger = F.interpolate(labels[None].float(), scale_factor=2)[0].long()  # as files have them
    batch['data_samples'][0].gt_sem_seg = PixelData(data=larger)
    model = make_model()
    view = take_view(model, batch)
    assert view.inputs.shape == (1, 3, 64, 96)
    wanted = F.pad(labels[0], (0, 6, 0, 14), value=255)
    assert torch.equal(view.sample.gt_sem_seg.data[0], wanted)
    half = take_view(model, batch, scale=0.5)
    assert half.inputs.shape[2:] == half.sample.gt_sem_seg.data.shape[1:] == (32, 48)
    model.test_cfg = ConfigDict(mode='slide', crop_size=(32, 32), stride=(32, 32))
    window = take_view(model, batch)
    assert window.inputs.shape[2:] == window.sample.gt_sem_seg.data.shape[1:] == (32, 32)


@pytest.mark.parametrize(
    ('backbone', 'target', 'message'),
    [
        (dict(gate=dict(type='EdgeGate')), 'boundary', 'wanted one with weights to fit .*, got EdgeGate'),
        (
            dict(train_execution='masked', gate_gradient='mask'),
            'utility',
            "wanted gate_gradient='output' .*, got 'mask'",
        ),
    ],
)
def test_models_that_cannot_teach(make_model, backbone, target, message):
    with pytest.raises(ValueError, match=message):
        check_target(make_model(**backbone), [target])
    for name in TEACHERS:
        check_target(make_model(), [name])


def test_the_target_at_fault_is_named(make_model):
    model = make_model()
    del model.decode_head
    with pytest.raises(ValueError, match='target boundary: wanted a segmentor'):
        check_target(model, ['utility', 'boundary'])
