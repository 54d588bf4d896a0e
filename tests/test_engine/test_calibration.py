"""A calibrated gate costs what was asked for, and nothing but its threshold has moved."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from msvit_mm.backbones.merging import MutualPairs
from msvit_mm.engine.calibration import SIGNS, calibrate_gate
from msvit_mm.evaluation import ComplexityMetric
from msvit_mm.gates import RegionGate, build_gate

SLIDE = dict(mode='slide', crop_size=(64, 96), stride=(64, 96))
SIZES = [(90, 150), (64, 96), (40, 70)]  # with regions cut at the border
WINDOWS = [(128, 96), (64, 96)]  # that do not overlap, so that all regions weigh alike in the ratio of a prediction


@pytest.fixture
def make_model(tiny_arch, perturb):
    def make(task='segmentor', test_cfg=None, gate=None):
        backbone = dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), gate=gate or dict(type='ScaleGate'))
        if task == 'classifier':
            init_default_scope('mmpretrain')
            head = dict(type='LinearClsHead', num_classes=3, in_channels=32)
            preprocessor = dict(mean=[127.5] * 3, std=[60.0] * 3)
            config = dict(type='GatedImageClassifier', backbone=backbone, head=head, data_preprocessor=preprocessor)
        else:
            head = dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3)
            preprocessor = dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[60.0] * 3)
            config = dict(type='GatedEncoderDecoder', backbone=backbone, decode_head=head)
            config |= dict(test_cfg=test_cfg or dict(mode='whole'), data_preprocessor=preprocessor)
        return perturb(MODELS.build(ConfigDict(config))).eval()

    return make


def make_batches(task='segmentor', sizes=SIZES):
    generator = torch.Generator().manual_seed(0)
    batches = []
    for height, width in sizes:
        image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        meta = dict(img_shape=(height, width), ori_shape=(height, width))
        sample = (DataSample if task == 'classifier' else SegDataSample)(metainfo=meta)
        batches.append(dict(inputs=[image], data_samples=[sample]))
    return batches


@torch.no_grad()
def predicted_costs(model, batches):
    metric = ComplexityMetric()
    for batch in batches:
        batch = model.data_preprocessor(batch)
        samples = model.predict(batch['inputs'], batch['data_samples'])
        metric.process({}, [sample.to_dict() for sample in samples])
    costs = metric.evaluate(size=len(batches))
    return {name: costs[name] for name in SIGNS}


def reachable_costs(model, batches, measure):
    """Every cost that some threshold has, by moving the gate's logits past one region after the other."""
    logits = []
    hook = model.backbone.gate.register_forward_hook(lambda gate, args, out: logits.append(out.detach().flatten()))
    predicted_costs(model, batches)
    hook.remove()
    ascending = torch.cat(logits).sort().values
    places = [ascending[0] - 1, *((ascending[:-1] + ascending[1:]) / 2), ascending[-1] + 1]
    costs = []
    for place in places:
        model.backbone.gate.shift_logits(-place.item())
        costs.append(predicted_costs(model, batches)[measure])
        model.backbone.gate.shift_logits(place.item())
    return costs


@pytest.mark.parametrize(
    ('task', 'test_cfg', 'measure'),
    [
        *(('segmentor', None, measure) for measure in SIGNS),
        ('segmentor', SLIDE, 'gmacs'),
        ('classifier', None, 'gmacs'),
        *(
            pytest.param(task, test_cfg, measure, marks=pytest.mark.slow)
            for task, test_cfg in (('segmentor', SLIDE), ('classifier', None))
            for measure in SIGNS
            if measure != 'gmacs'
        ),
    ],
)
def test_predictions_cost_what_is_nearest_to_the_budget(make_model, measure, task, test_cfg):
    model, batches = make_model(task, test_cfg), make_batches(task, WINDOWS if test_cfg else SIZES)
    reachable = reachable_costs(model, batches, measure)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for share in (0.0, 0.37, 0.8, 1.0):
        wanted = min(reachable) + share * (max(reachable) - min(reachable))
        before = predicted_costs(model, batches)
        report = calibrate_gate(model, batches, measure, wanted)
        assert report['before'] == pytest.approx(before)
        assert report['after'] == pytest.approx(predicted_costs(model, batches))
        nearest = min(abs(cost - wanted) for cost in reachable)
        assert abs(report['after'][measure] - wanted) == pytest.approx(nearest, abs=1e-6)
        assert (report['measure'], report['wanted'], report['num_images']) == (measure, wanted, len(batches))
    moved = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])]
    assert moved == ['backbone.gate.layers.6.bias']


def test_logits_shift_by_the_threshold_alike(make_model):
    for gate in (dict(type='ScaleGate'), dict(type='StaticGate', grid_size=(4, 6))):
        model, images = make_model(gate=gate), torch.randn(2, 3, 70, 90)
        before = model.backbone.gate(images)
        report = calibrate_gate(model, make_batches(), 'coarse_ratio', 0.4)
        torch.testing.assert_close(model.backbone.gate(images), before - report['threshold'])


def test_ties_stay_together(make_model):
    """A pattern of two logits has three thresholds: none, a third or all regions coarse."""
    model = make_model(gate=dict(type='StaticGate', grid_size=(2, 3)))
    with torch.no_grad():
        model.backbone.gate.logits.copy_(torch.tensor([[1.0, 1, 2], [1, 2, 1 + 1e-8]]))
    batches = make_batches(sizes=[(64, 96)])
    for wanted, reached in ((0.1, 0), (0.2, 1 / 3), (0.3, 1 / 3), (0.6, 1 / 3), (0.9, 1)):
        after = calibrate_gate(model, batches, 'coarse_ratio', wanted)['after']
        assert after['coarse_ratio'] == pytest.approx(reached)
        assert after == pytest.approx(predicted_costs(model, batches))


@pytest.mark.parametrize(
    ('measure', 'wanted', 'message'),
    [
        ('num_tokens', 5, r'wanted a budget between 6 \(all regions coarse\) and 24 \(all fine\) .* got 5'),
        ('num_tokens', 25, 'got 25'),
        ('coarse_ratio', 1.01, r'between 1 \(all regions coarse\) and 0 \(all fine\)'),
        ('coarse_ratio', float('nan'), 'got nan'),
        ('gmacs', 1e6, 'gmacs: wanted a budget between'),
        ('tokens', 9, "measure must be one of .*'num_tokens'.*, got 'tokens'"),
    ],
)
def test_a_budget_out_of_reach_is_refused_and_the_gate_stays(make_model, measure, wanted, message):
    model = make_model()
    bias = model.backbone.gate.layers[-1].bias.clone()
    with pytest.raises(ValueError, match=message):
        calibrate_gate(model, make_batches(sizes=[(64, 96)]), measure, wanted)
    assert torch.equal(model.backbone.gate.layers[-1].bias, bias)


def test_gmacs_of_tokens_that_merge_are_refused(make_model):
    """They do not follow from the gate; the tokens that it lets in do."""
    model = make_model()
    model.backbone.between = (MutualPairs(before=(1,), num_extra_tokens=1),)
    with pytest.raises(ValueError, match='^gmacs: wanted a backbone without steps between the layers, got 1, which'):
        calibrate_gate(model, make_batches(), 'gmacs', 0.001)
    assert calibrate_gate(model, make_batches(), 'num_tokens', 15)['after']['num_tokens'] == pytest.approx(15, rel=0.2)


def test_no_images_and_no_logits_to_shift_are_refused(make_model):
    model = make_model()
    with pytest.raises(ValueError, match='wanted at least one image, got none'):
        calibrate_gate(model, [], 'coarse_ratio', 0.5)
    for gate in ('RandomGate', 'EdgeGate', 'FixedGate'):
        model.backbone.gate = build_gate(dict(type=gate), RegionGate, coarse_patch_size=32)
        with pytest.raises(ValueError, match=f'wanted one whose logits can shift .*, got {gate}'):
            calibrate_gate(model, iter([BaseDataElement()]), 'coarse_ratio', 0.5)
