import pytest
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

BASE_LR, DECAY = 0.1, 0.5
# learning rate as a share of the base rate, by the beginning of a parameter's name
SHARES = {
    'backbone.cls_token': DECAY**3,
    'backbone.pos_embed': DECAY**3,
    'backbone.patch_embed.': DECAY**3,
    'backbone.layers.0.': DECAY**2,
    'backbone.layers.1.': DECAY,
    'backbone.ln1.': 1,
    'backbone.gate.': 3,
    'decode_head.': 1,
    'gate_loss.': 10,
}
MODEL_TYPES = ['EncoderDecoder', 'GatedEncoderDecoder']


@pytest.fixture
def make_groups(tiny_arch):
    """Build a tiny segmentor and return its parameters' names and its optimizer's groups by parameter name."""

    def make(model_type='GatedEncoderDecoder', custom_keys=None, **backbone):
        init_default_scope('mmseg')
        model = dict(
            type=model_type,
            backbone=dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), **backbone),
            decode_head=dict(type='FCNHead', in_channels=32, channels=8, num_classes=5),
            test_cfg=ConfigDict(mode='whole'),
        )
        if model_type == 'GatedEncoderDecoder':
            model['gate_loss'] = dict(type='BatchShapingLoss')
        model = MODELS.build(model)
        paramwise_cfg = dict(
            layer_decay_rate=DECAY,
            custom_keys=custom_keys
            or {'backbone.gate': dict(lr_mult=3.0, decay_mult=0.0), 'gate_loss': dict(lr_mult=10.0)},
        )
        wrapper = build_optim_wrapper(
            model,
            dict(
                type='OptimWrapper',
                constructor='GatedLayerDecayConstructor',
                optimizer=dict(type='AdamW', lr=BASE_LR, weight_decay=0.05),
                paramwise_cfg=paramwise_cfg,
            ),
        )
        return dict(model.named_parameters()), {group['param_name']: group for group in wrapper.optimizer.param_groups}

    return make


@pytest.mark.parametrize('model_type', MODEL_TYPES)
def test_rates_fall_with_depth_and_the_gate_keeps_its_own(make_groups, model_type):
    parameters, groups = make_groups(model_type)
    assert groups.keys() == parameters.keys()
    used = set()
    for name, group in groups.items():
        (prefix,) = [prefix for prefix in SHARES if name.startswith(prefix)]
        used.add(prefix)
        assert group['lr'] == pytest.approx(BASE_LR * SHARES[prefix]), name
        assert group['weight_decay'] == (0 if prefix == 'backbone.gate.' else 0.05)
        assert [p is parameters[name] for p in group['params']] == [True]
    assert used == SHARES.keys() - (set() if model_type == 'GatedEncoderDecoder' else {'gate_loss.'})


def test_without_custom_keys_the_gate_has_the_base_rate(make_groups):
    _, groups = make_groups(custom_keys={'no such parameter': dict()})
    rates = [group['lr'] for name, group in groups.items() if name.startswith('backbone.gate')]
    assert rates and set(rates) == {BASE_LR}


def test_lr_mult_combines_with_depth(make_groups):
    _, groups = make_groups(custom_keys={'pos_embed': dict(lr_mult=2.0)})
    assert groups['backbone.pos_embed']['lr'] == pytest.approx(BASE_LR * DECAY**3 * 2)


def test_frozen_parameters_are_left_out(make_groups):
    parameters, groups = make_groups(frozen_stages=1, gate=dict(type='ScaleGate', frozen=True))
    assert groups.keys() == {name for name, parameter in parameters.items() if parameter.requires_grad}
    assert not any(name.startswith(('backbone.gate', 'backbone.layers.0', 'backbone.pos_embed')) for name in groups)
    assert 'backbone.layers.1.ln1.weight' in groups
