"""Laws 10 and 11: settings come and go, what is wrong is said, and models carry the choices to predictions."""

import pytest
import torch
from conformance.cases import ODD_SIZE, RATIO, SIZE, Case, close, need, random_images, run, tensors_of, varied_decisions
from mmengine.registry import MODELS, init_default_scope

from msvit_mm.backbones import GatedBackbone, registered_backbones
from msvit_mm.gates import Gate
from msvit_mm.ops.macs import count_macs


def law_registered_and_built_by_name(case: Case) -> None:
    """The registry finds it under its class's name, from the scope of every host."""
    assert registered_backbones()[case.backbone.__name__] is case.backbone
    for scope in ('mmengine', 'mmseg', 'mmpretrain'):
        config = case.words(type=case.backbone.__name__, _scope_=scope)
        assert type(MODELS.build(config)) is case.backbone


def law_examples_are_not_shared(case: Case) -> None:
    """Whoever changes the words of an example changes his own."""
    case.backbone.examples()[case.example].clear()
    assert case.backbone.examples()[case.example]


def law_configured_restores_everything(case: Case) -> None:
    """After the block, or an error in it, gate, execution and budget are the same objects as before."""
    backbone, images = case.build(), random_images()
    before = _settings(backbone)
    settings = [dict(gate=config) for config in backbone.stand_ins(dict(coarse_ratio=0.5, cost_ratio=RATIO)).values()]
    settings += [dict(gate=backbone.state_decisions(varied_decisions(backbone, images)))]
    settings += [dict(execution=x) for x in {*backbone.train_executions, *backbone.test_executions}]
    settings += [dict(token_budget=None)]
    for words in settings:
        for training in (False, True):
            backbone.train(training)
            with backbone.configured(**words) as same:
                assert same is backbone
                assert backbone.gate.training == training
                assert 'gate' not in words or _settings(backbone) != before
            assert _settings(backbone) == before
            with pytest.raises(KeyError), backbone.configured(**words):
                raise KeyError
            assert _settings(backbone) == before
    backbone.eval()
    wanted = run(backbone, images)[0]
    with backbone.configured():
        close(run(backbone, images)[0], wanted, tolerance=0.0)


def law_wrong_settings_are_refused(case: Case) -> None:
    """An unknown execution or gate is an error with what was wanted and what was got, and changes nothing."""
    backbone = case.build()
    close_name = backbone.default_gate['type'][:-1]
    before = _settings(backbone)
    wrong = [
        (dict(execution='quantum'), r"execution: wanted one of \w+.*, got 'quantum'"),
        (dict(gate=dict(type='NoGate')), r'gate must be a config whose type is one of \w+.*, got .*NoGate'),
        (dict(gate=dict(type=close_name)), f'got .*{close_name}.* .did you mean .*{close_name}.+'),
        (dict(gate=dict(type=_Foreign)), r'gate must be a config whose type is one of \w+.*, got .*_Foreign'),
    ]
    if not hasattr(backbone, 'token_budget'):
        wrong += [(dict(token_budget=30), f'token_budget: {type(backbone).__name__} knows none, got 30')]
    for words, message in wrong:
        with pytest.raises(ValueError, match=message), backbone.configured(**words):
            raise AssertionError('no error')
        assert _settings(backbone) == before
    with pytest.raises(ValueError, match='gate must be a config whose type is one of'):
        case.backbone(**case.words(gate=dict(type='NoGate')))
    with pytest.raises(
        ValueError, match=f'wanted one that takes {backbone.gate_statement}, got _Deaf, which takes None'
    ):
        backbone.build_gate_loss(dict(type=_Deaf))


def law_wrong_input_is_refused(case: Case) -> None:
    """Images of another type, shape or without finite values are an error that says so."""
    backbone = case.build()
    wrong = [
        (torch.zeros(2, 3, *SIZE, dtype=torch.uint8), 'floating point .* got torch.uint8'),
        (torch.zeros(3, *SIZE), r'shape \(B, 3, H, W\), got'),
        (torch.zeros(2, 5, *SIZE), r'shape \(B, 3, H, W\), got .*\(2, 5, 64, 96\)'),
        (random_images().index_fill(0, torch.tensor([1]), torch.nan), r'NaN or infinity in image\(s\) \[1\]'),
    ]
    for images, message in wrong:
        with pytest.raises(ValueError, match=message):
            backbone(images)


def law_warming_up_decides_what_can_be_executed(case: Case) -> None:
    """The default gate of warming up learns nothing, decides before any feature is there, and differs by batch."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    gate = backbone.build_gate(backbone.default_warmup_gate)
    assert not gate.learnable
    drawn = [backbone.draw_decisions(gate, images) for _ in range(8)]
    assert len({backbone.costs_of(decisions, ODD_SIZE).total.sum().item() for decisions in drawn}) > 2
    run(backbone, images, drawn[0])


def law_statistics_and_maps_are_what_they_say(case: Case) -> None:
    """Statistics are scalars, the ratio's among them; maps are of the images, one value per cell."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    _, choices = run(backbone, images, varied_decisions(backbone, images))
    statistics = choices.statistics()
    assert {backbone.ratio_name, f'{backbone.ratio_name}_std'} <= set(statistics)
    assert all(value.ndim == 0 and value.isfinite() for value in statistics.values())
    assert choices.maps()
    for name, x in choices.maps().items():
        assert x.kind in ('scale', 'logits', 'routes', 'merges', 'groups', 'layers'), name
        assert x.data.shape[0] == 3
        assert x.data.shape[-2:] == tuple(-(-side // x.cell) for side in ODD_SIZE), name
    assert all(len(x) == 3 for x in tensors_of(choices.loss_input()))
    assert isinstance(backbone.metainfo(), dict) and backbone.metainfo()


def law_a_segmentor_carries_the_choices(case: Case) -> None:
    """Its predictions hold every map by name, its kind, what the backbone says of itself, and what was dispatched."""
    backbone = case.build()
    need(backbone.out_type == 'featmap', 'maps')
    channels = run(backbone, random_images())[0][-1].shape[1]
    head = dict(
        type='FCNHead', in_channels=channels, in_index=-1, channels=8, num_convs=1, num_classes=3, norm_cfg=None
    )
    model = _model(case, backbone, type='GatedEncoderDecoder', decode_head=head, test_cfg=dict(mode='whole'))
    _check_predictions(model, backbone)


def law_a_classifier_carries_the_choices(case: Case) -> None:
    """As a segmentor's predictions."""
    backbone = case.build()
    need(backbone.token_classes is None, 'steps between the layers that need label maps')
    need(backbone.out_type in ('featmap', 'cls_token'), 'features for a classifier')
    channels = run(backbone, random_images())[0][-1].shape[1]
    head = dict(type='LinearClsHead', in_channels=channels, num_classes=3)
    _check_predictions(_model(case, backbone, type='GatedImageClassifier', head=head), backbone)


def law_a_name_that_is_not_registered_is_refused(case: Case) -> None:
    """A model over an unknown backbone says which are known, and which one may have been meant."""
    name = case.backbone.__name__
    with pytest.raises(
        ValueError, match=rf'wanted a gated backbone, .*{name}.*, got {name[:-1]!r} \(did you mean .*{name}'
    ):
        MODELS.build(dict(type='GatedImageClassifier', backbone=dict(type=name[:-1]), head=None))


class _Foreign(Gate):
    """Of no family."""


class _Deaf(torch.nn.Module):
    """A loss that judges no statement."""

    def __init__(self, **words: object) -> None:
        super().__init__()


def _settings(backbone: GatedBackbone) -> dict:
    names = ('train_execution', 'test_execution', 'token_budget')
    return {name: getattr(backbone, name, None) for name in names} | dict(gate=id(backbone.gate))


def _model(case: Case, backbone: GatedBackbone, **words: object) -> torch.nn.Module:
    init_default_scope('mmseg' if 'decode_head' in words else 'mmpretrain')
    model = MODELS.build(dict(backbone=case.words(type=case.backbone.__name__), **words)).double().eval()
    model.backbone.load_state_dict(backbone.state_dict())
    return model


def _check_predictions(model: torch.nn.Module, backbone: GatedBackbone) -> None:
    images = random_images(ODD_SIZE)
    with torch.no_grad():
        predictions = model.predict(images)
        _, choices = backbone.forward_gated(images)
        counted = count_macs(model.predict, images)
    maps = choices.maps()
    for i, sample in enumerate(predictions):
        assert sample.choice_maps == {name: (x.kind, x.cell) for name, x in maps.items()}
        for name, x in maps.items():
            wanted = x.data[i].reshape(-1, *x.data.shape[-2:])
            assert torch.equal(sample.get(name).data.nan_to_num(-1), wanted.nan_to_num(-1)), name
        for name, value in backbone.metainfo().items():
            assert sample.metainfo[name] == value
        close(sample.backbone_gmacs, choices.costs.total[i].item() / 1e9)
        close(sample.cost_ratio, choices.costs.cost_ratio[i].item())
        close(float(sample.num_tokens), float(choices.num_tokens[i]))
    close(sum(sample.gmacs for sample in predictions), counted / 1e9)
