import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from msvit_mm.evaluation import PARTS, ComplexityMetric, count_parts, spread
from msvit_mm.ops.macs import count_macs


def sample(num_coarse, num_tokens):
    scale_map = torch.zeros(1, 2, 3)
    scale_map.view(-1)[:num_coarse] = 1
    costs = dict(cost_ratio=0.04 * num_tokens, num_tokens=num_tokens, backbone_gmacs=0.1 * num_tokens)
    maps = dict(scale_map=dict(data=scale_map), choice_maps=dict(scale_map=('scale', 32), gate_logits=('logits', 32)))
    return maps | costs | dict(gmacs=num_tokens)


def test_means_over_images():
    metric = ComplexityMetric()
    metric.process({}, [sample(0, 24), sample(3, 15)])
    metric.process({}, [sample(6, 6)])
    expected = dict(coarse_ratio=0.5, cost_ratio=0.6, num_tokens=15, backbone_gmacs=1.5, gmacs=15)
    assert metric.evaluate(size=3) == pytest.approx(expected)


def test_predictions_without_a_gate_are_refused():
    with pytest.raises(ValueError, match=r"wanted predictions with a cost_ratio, got fields \['num_tokens', 'seg'\]"):
        ComplexityMetric().process({}, [dict(seg=1, num_tokens=2)])


@pytest.mark.parametrize('test_cfg', [dict(mode='whole'), dict(mode='slide', crop_size=(64, 96), stride=(40, 56))])
def test_parts_sum_to_the_prediction_and_to_what_is_dispatched(tiny_arch, test_cfg):
    head = dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3)
    config = dict(
        type='GatedEncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[60.0] * 3),
        backbone=dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), gate=dict(type='EdgeGate', coarse_ratio=0.5)),
        decode_head=head | dict(norm_cfg=dict(type='GN', num_groups=2)),
        test_cfg=test_cfg,
    )
    model = MODELS.build(ConfigDict(config)).eval()
    images = torch.randint(256, (3, 90, 150), dtype=torch.uint8)
    meta = dict(img_shape=(90, 150), ori_shape=(90, 150))
    batch = model.data_preprocessor(dict(inputs=[images], data_samples=[SegDataSample(metainfo=meta)]))
    with torch.no_grad():
        counts, dense = count_parts(model, batch)
        (sample,) = model.predict(batch['inputs'], batch['data_samples'])
        dispatched = count_macs(model.predict, batch['inputs'], batch['data_samples']) / 1e9
    assert set(counts) == set(dense) == {'num_tokens', *PARTS}
    assert counts['gate'] + counts['embedding'] + counts['encoder'] == pytest.approx(counts['backbone'])
    assert counts['backbone'] == pytest.approx(sample.backbone_gmacs)
    assert counts['whole'] == pytest.approx(sample.gmacs) == pytest.approx(dispatched, rel=1e-3)
    assert counts['num_tokens'] == sample.num_tokens < dense['num_tokens']
    assert counts['encoder'] < dense['encoder']
    assert counts['decoder'] == dense['decoder'] > 0

    with torch.no_grad(), model.backbone.configured(gate=dict(type='FixedGate', scale='fine')):
        fine, _ = count_parts(model, batch)
    assert fine['num_tokens'] == dense['num_tokens']
    assert fine['encoder'] == pytest.approx(dense['encoder'])


def test_spread_over_images():
    assert spread(list(range(101))) == dict(mean=50, p5=5, p50=50, p95=95)


def test_means_over_routed_images():
    metric = ComplexityMetric()
    costs = dict(num_tokens=7, gmacs=3.0, choice_maps=dict(routes_s4=('routes', 4), merges_s8=('merges', 8)))
    samples = [dict(cost_ratio=gmacs / 2, backbone_gmacs=gmacs, **costs) for gmacs in (1.0, 2.5)]
    metric.process({}, samples)
    assert metric.evaluate(size=2) == pytest.approx(dict(cost_ratio=0.875, num_tokens=7, backbone_gmacs=1.75, gmacs=3))


def test_means_over_detections_are_of_the_backbone():
    sample = dict(cost_ratio=0.5, num_tokens=7, backbone_gmacs=1.0, choice_maps=dict(routes_s4=('routes', 4)))
    metric = ComplexityMetric()
    metric.process({}, [sample])
    assert metric.evaluate(size=1) == dict(cost_ratio=0.5, num_tokens=7, backbone_gmacs=1.0)


@pytest.mark.parametrize('test_cfg', [dict(mode='whole'), dict(mode='slide', crop_size=(64, 96), stride=(40, 56))])
def test_parts_of_a_routed_model(test_cfg):
    arch = dict(embed_dims=(8, 16, 40, 64), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2))
    head = dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_convs=1, num_classes=3)
    config = dict(
        type='GatedEncoderDecoder',
        backbone=dict(type='DynamicTokenRoutingTransformer', arch=arch, gate=dict(type='RouteGate', initial_ratio=0.5)),
        decode_head=head | dict(norm_cfg=None),
        test_cfg=test_cfg,
    )
    model = MODELS.build(ConfigDict(config)).eval()
    for _, linear in model.backbone.gate.logits.values():
        torch.nn.init.normal_(linear.weight)
    meta = dict(img_shape=(90, 150), ori_shape=(90, 150))
    batch = dict(inputs=torch.randn(1, 3, 90, 150), data_samples=[SegDataSample(metainfo=meta)])
    with torch.no_grad():
        counts, dense = count_parts(model, batch)
        dispatched = count_macs(model.predict, batch['inputs'], batch['data_samples']) / 1e9
        (sample,) = model.predict(**batch)
    assert set(counts) == set(dense) == {'num_tokens', *PARTS}
    assert counts['whole'] == pytest.approx(dispatched, rel=1e-6)
    assert counts['backbone'] == pytest.approx(sample.backbone_gmacs)
    assert dense['backbone'] == pytest.approx(sample.reference_gmacs)
    assert counts['gate'] > dense['gate'] == 0
    assert counts['embedding'] > dense['embedding'] > 0  # by the merges
    assert counts['encoder'] != dense['encoder']
