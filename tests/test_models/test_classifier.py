import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.evaluator import Evaluator
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample

from msvit_mm.engine import GateScheduleHook
from msvit_mm.ops.macs import count_macs

CLASS_TOKEN = dict(out_type='cls_token', train_execution='masked', gate_gradient='mask')
POOLINGS = [dict(), CLASS_TOKEN]


@pytest.fixture(autouse=True)
def mmpretrain_scope():
    init_default_scope('mmpretrain')


@pytest.fixture
def make_classifier(tiny_arch, perturb):
    """Build a tiny gated classifier of 5 classes, in evaluation mode; words are merged into its config."""

    def make(gate=None, backbone=None, **kwargs):
        gate = gate or dict(type='ScaleGate', initial_ratio=0.5)
        config = dict(
            type='GatedImageClassifier',
            data_preprocessor=dict(mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0], to_rgb=True),
            backbone=dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), gate=gate, **backbone or {}),
            head=dict(type='LinearClsHead', num_classes=5, in_channels=32),
            gate_loss=dict(type='BatchShapingLoss', coarse_ratio=0.5),
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return perturb(MODELS.build(config | kwargs)).eval()

    return make


@pytest.fixture
def batch():
    """Raw images, BGR in 0..255, and labels."""
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randint(256, (3, 64, 96), generator=generator, dtype=torch.uint8) for _ in range(3)]
    return dict(inputs=inputs, data_samples=[DataSample().set_gt_label(label) for label in (4, 0, 2)])


def losses_of(model, batch, seed=0):
    model.train()
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    torch.manual_seed(seed)
    return model.loss(**data)


def record(monkeypatch, owner, name):
    """Results of all further calls of a method."""
    results, method = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: results.append(method(*args)) or results[-1])
    return results


# Training


@pytest.mark.parametrize('backbone', POOLINGS, ids=['mean', 'class token'])
def test_losses_and_statistics(make_classifier, batch, monkeypatch, backbone):
    model = make_classifier(backbone=backbone)
    forwards = record(monkeypatch, model.backbone, 'forward_gated')
    losses = losses_of(model, batch)
    expected = {'loss', 'loss_gate_prior', 'loss_gate_hyper', 'loss_gate_temperature'}
    assert {name for name in losses if 'loss' in name} == expected
    total, logged = model.parse_losses(losses)
    assert total.item() == pytest.approx(sum(losses[name].item() for name in expected))
    ((features, gate),) = forwards
    pooled = features[0].mean((2, 3)) if features[0].ndim == 4 else features[0]
    scores = torch.nn.functional.linear(pooled, model.head.fc.weight, model.head.fc.bias)
    wanted = torch.nn.functional.cross_entropy(scores, torch.tensor([4, 0, 2]))
    torch.testing.assert_close(losses['loss'], wanted)
    ratios = gate.decisions.mean((1, 2))
    assert ratios.std() > 0
    assert logged['coarse_ratio'].item() == pytest.approx(ratios.mean().item())
    assert logged['num_tokens'].item() == pytest.approx(gate.num_tokens.float().mean().item())
    gmacs = gate.costs.total.mean().item() / 1e9
    assert logged['gmacs'].item() == pytest.approx(gmacs)


@pytest.mark.parametrize('backbone', POOLINGS, ids=['mean', 'class token'])
def test_every_parameter_learns(make_classifier, batch, backbone):
    model = make_classifier(backbone=backbone)
    model.parse_losses(losses_of(model, batch))[0].backward()
    for name, parameter in model.named_parameters():
        if name == 'gate_loss.mean_logits':  # both distances may balance at the start
            continue
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize('backbone', POOLINGS, ids=['mean', 'class token'])
def test_the_task_alone_teaches_the_gate(make_classifier, batch, backbone):
    model = make_classifier(gate_loss=None, backbone=backbone)
    losses_of(model, batch)['loss'].backward()
    assert all(parameter.grad.any() for parameter in model.backbone.gate.parameters())


UTILITY = dict(type='UtilityGateLoss', coarse_ratio=0.5)


def test_a_teacher_changes_no_other_loss(make_classifier, batch, tiny_arch, trained):
    gate = dict(type='FixedGate', scale='fine')
    teacher = dict(
        type='GatedImageClassifier',
        backbone=dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), gate=gate),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=32),
    )
    models = make_classifier(), make_classifier(teacher_loss=dict(type='TeacherLoss', teacher=trained(teacher)))
    plain, taught = (losses_of(model, batch) for model in models)
    assert taught.pop('loss_teacher') > 0 and taught.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(taught[name], value)


def test_utilities_swap_one_region_of_each_image_at_a_time(make_classifier, batch, monkeypatch):
    """Against the pooled features with one region's cells replaced by hand, four regions of each image."""
    model = make_classifier(utility_loss=UTILITY)
    model.backbone.counterfactual_share = 1.0
    passes, seen = record(monkeypatch, model.backbone, 'forward_gated'), record(monkeypatch, model, '_utilities')
    losses = losses_of(model, batch)
    (((features,), choices),), ((wins, known),) = passes, seen
    assert (known.flatten(1).sum(1) == 4).all()
    (swapped,) = choices.counterfactual.swap(torch.ones_like(known))
    labels = torch.tensor([4, 0, 2])

    @torch.no_grad()
    def loss_of(maps):
        return F.cross_entropy(model.head((maps.mean((2, 3)),)), labels, reduction='none')

    for image, row, col in known.nonzero().tolist():
        mixed, cells = features.detach().clone(), (slice(2 * row, 2 * row + 2), slice(2 * col, 2 * col + 2))
        mixed[(image, slice(None), *cells)] = swapped[(image, slice(None), *cells)]
        won = loss_of(features)[image] - loss_of(mixed)[image]
        torch.testing.assert_close(wins[image, row, col], won, rtol=1e-4, atol=1e-6)
    assert not wins[~known].any() and wins[known].abs().min() > 0

    utilities = ((2 * choices.decisions - 1) * wins)[known]
    distance = (utilities - torch.quantile(utilities, 0.5)).abs()
    weights = (distance / distance.mean()).clamp(0.1, 5)
    targets = (utilities < torch.quantile(utilities, 0.5)).float()
    wanted = F.binary_cross_entropy_with_logits(choices.gate_logits[known], targets, weights)
    torch.testing.assert_close(losses['loss_gate_utility'], wanted)


def test_utilities_of_each_scale_of_three(make_classifier, batch, monkeypatch):
    gate = dict(type='ScaleGate', initial_ratio=0.5, sample_size=8)
    model = make_classifier(gate, dict(patch_sizes=(8, 16, 32)), utility_loss=UTILITY)
    seen = record(monkeypatch, model, '_utilities')
    assert losses_of(model, batch)['loss_gate_utility'].isfinite()
    ((wins, known),) = seen
    assert [x.shape[1:] for x in wins] == [(2, 3), (4, 6)]
    for won, there in zip(wins, known, strict=True):
        assert (there.flatten(1).sum(1) <= 4).all() and won[there].all() and not won[~there].any()
    assert known[0].any(2).any(1).all()


def test_utilities_know_drawn_regions_alone(make_classifier, batch, monkeypatch):
    model = make_classifier(utility_loss=UTILITY)
    model.backbone.counterfactual_share = 1 / 3  # 2 of 6 regions, fewer than are swapped
    passes, seen = record(monkeypatch, model.backbone, 'forward_gated'), record(monkeypatch, model, '_utilities')
    losses_of(model, batch)
    ((_, choices),), ((wins, known),) = passes, seen
    assert torch.equal(known, choices.counterfactual.drawn)
    assert (known.flatten(1).sum(1) == 2).all() and wins[known].abs().min() > 0


def test_multi_label(make_classifier, batch):
    model = make_classifier(head=dict(type='MultiLabelLinearClsHead', num_classes=5, in_channels=32))
    for sample, label in zip(batch['data_samples'], ([0, 3], [1], [0, 1, 4]), strict=True):
        sample.set_gt_label(label)
    assert losses_of(model, batch)['loss'].isfinite()
    evaluator = Evaluator([dict(type='AveragePrecision'), dict(type='ComplexityMetric')])
    predictions = model.eval().test_step(copy.deepcopy(batch))
    evaluator.process(predictions, batch)
    metrics = evaluator.evaluate(3)
    assert {'multi-label/mAP', 'coarse_ratio', 'num_tokens', 'gmacs'} <= set(metrics)


def test_warm_up_rests_the_gate(make_classifier, batch, monkeypatch):
    model = make_classifier(warmup_gate=dict(type='RandomGate', coarse_ratio=1.0))
    model.gate_phase = 'warmup'
    forwards = record(monkeypatch, model.backbone, 'forward_gated')
    losses = losses_of(model, batch)
    assert forwards[0][1].decisions.all()
    assert all(losses[name] == 0 for name in losses if name.startswith('loss_gate'))
    model.parse_losses(losses)[0].backward()
    resting = [*model.backbone.gate.parameters(), *model.gate_loss.parameters()]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in resting)  # none is unused
    assert model.backbone.layers[0].attn.qkv.weight.grad.any()


def test_the_schedule_moves_phase_and_weight(make_classifier):
    model = make_classifier()
    hook = GateScheduleHook(warmup=0.5, weights=(0.5, 2.0), ramp=(0.0, 0.5))
    seen = []
    for iteration in range(4):
        hook.before_train_iter(SimpleNamespace(model=model, iter=iteration, max_iters=4), iteration)
        seen.append((model.gate_phase, model.gate_loss.weight))
    assert seen == [('warmup', 0.5), ('warmup', 0.5), ('learn', 0.5), ('learn', 2.0)]


def test_gate_crops_reach_the_gate_loss_alone(make_classifier, batch):
    model = make_classifier()
    plain = losses_of(model, batch)
    for sample, image in zip(batch['data_samples'], batch['inputs'], strict=True):
        sample.set_field(image[None], 'gate_crops')
    losses = losses_of(model, batch)
    assert torch.equal(losses['loss'], plain['loss'])
    assert not torch.equal(losses['loss_gate_prior'], plain['loss_gate_prior'])


# Prediction


@pytest.mark.parametrize('backbone', POOLINGS, ids=['mean', 'class token'])
def test_prediction_carries_choices_and_cost(make_classifier, batch, backbone):
    model = make_classifier(backbone=backbone)
    inputs = model.data_preprocessor(copy.deepcopy(batch))['inputs']
    predictions = model.test_step(copy.deepcopy(batch))
    with torch.no_grad():
        _, gate = model.backbone.forward_gated(inputs)
        scores = model(inputs, mode='tensor').softmax(1)
    assert len(set(gate.num_tokens.tolist())) > 1
    for i, sample in enumerate(predictions):
        assert torch.equal(sample.scale_map.data, gate.decisions[i : i + 1])
        torch.testing.assert_close(sample.gate_logits.data, gate.gate_logits[i : i + 1])
        torch.testing.assert_close(sample.pred_score, scores[i])
        assert sample.gt_label == batch['data_samples'][i].gt_label
        assert sample.num_tokens == gate.num_tokens[i].item()
        assert sample.coarse_patch_size == 32
        with torch.no_grad():
            whole = count_macs(model, inputs[i : i + 1]) / 1e9
            backbone_gmacs = count_macs(model.backbone, inputs[i : i + 1]) / 1e9
        assert sample.gmacs == pytest.approx(whole, rel=1e-3)
        assert sample.backbone_gmacs == pytest.approx(backbone_gmacs, rel=1e-3)
        assert 0 < sample.backbone_gmacs < sample.gmacs
        assert sample.cost_ratio == pytest.approx(sample.backbone_gmacs / sample.reference_gmacs)
        assert sample.choice_maps == dict(scale_map=('scale', 32), gate_logits=('logits', 32))


def test_accuracy_beside_cost(make_classifier, batch):
    model = make_classifier()
    predictions = model.test_step(copy.deepcopy(batch))
    evaluator = Evaluator([dict(type='Accuracy'), dict(type='ComplexityMetric')])
    evaluator.process(predictions, batch)
    metrics = evaluator.evaluate(3)
    correct = sum(sample.pred_label == sample.gt_label for sample in predictions).item()
    assert metrics['accuracy/top1'] == pytest.approx(100 * correct / 3)
    assert metrics['num_tokens'] == pytest.approx(sum(sample.num_tokens for sample in predictions) / 3)
    assert metrics['gmacs'] == pytest.approx(sum(sample.gmacs for sample in predictions) / 3)


def test_tensors_alone_can_be_predicted(make_classifier):
    predictions = make_classifier().predict(torch.rand(2, 3, 70, 90))
    assert [sample.scale_map.shape for sample in predictions] == [(3, 3)] * 2
    assert [sample.pred_score.shape for sample in predictions] == [(5,)] * 2


def test_all_fine_is_the_hosts_classifier(make_classifier, tiny_arch):
    """The plain classifier with the same weights, on the mean of its patches."""
    model = make_classifier(gate=dict(type='FixedGate', scale='fine'), gate_loss=None)
    backbone = dict(type='VisionTransformer', arch=tiny_arch, img_size=(64, 96), out_type='featmap')
    host = ImageClassifier(
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=32),
    )
    host.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(images), host.eval()(images), rtol=1e-5, atol=1e-5)


def test_a_given_neck_stays(make_classifier):
    model = make_classifier(neck=dict(type='GeneralizedMeanPooling'))
    assert type(model.neck).__name__ == 'GeneralizedMeanPooling'


def test_utilities_of_mixed_images_are_of_their_scores(make_classifier, batch, monkeypatch):
    """As mmpretrain's heads: Mixup and CutMix leave scores beside the labels."""
    model = make_classifier(utility_loss=UTILITY)
    model.backbone.counterfactual_share = 1.0
    seen = record(monkeypatch, model, '_utilities')
    losses_of(model, batch)
    for sample in batch['data_samples']:
        sample.set_gt_score(F.one_hot(sample.gt_label[0], 5).float())
    losses_of(model, batch)
    ((wins, _), (as_scores, _)) = seen
    torch.testing.assert_close(as_scores, wins)
    for sample, score in zip(batch['data_samples'], torch.eye(5)[:3], strict=True):
        sample.set_gt_score(0.5 * sample.gt_score + 0.5 * score)
    losses_of(model, batch)
    assert not torch.allclose(seen[-1][0], wins)


@pytest.mark.parametrize('word', ['utility_loss', 'teacher_loss'])
def test_classes_that_do_not_exclude_each_other(make_classifier, word):
    head = dict(type='MultiLabelLinearClsHead', num_classes=5, in_channels=32)
    with pytest.raises(
        ValueError, match=f'{word}: wanted a head whose classes exclude .*, got MultiLabelLinearClsHead'
    ):
        make_classifier(head=head, **{word: UTILITY})
