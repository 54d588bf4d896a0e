"""Early exit: who leaves, what stays as it is, what the classifiers learn, and what is refused."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from msvit_mm.backbones.exits import ConfidentExits
from msvit_mm.backbones.layers import PackedSequences
from msvit_mm.losses import token_loss
from msvit_mm.ops.macs import count_macs
from msvit_mm.ops.mixed_grid import MixedGrid
from msvit_mm.ops.packing import Packing
from msvit_mm.ops.rotary import rotate, rotation_of
from msvit_mm.ops.tiling import active_slots

ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)
SIZE = (70, 90)
EXITS = dict(layers=(1, 3), num_classes=3, threshold=0.4, keep_per_class=2)
ROTARY = dict(num_registers=2, rope=dict(temperature=100.0))
HOSTS = [dict(), ROTARY, ROTARY | dict(patch_sizes=(8, 16, 32), gate=dict(type='ScaleGate', sample_size=8))]
HOST_NAMES = ['plain', 'rotary', 'rotary and three scales']


def images(batch=3):
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def make_exiting(make_msvit):
    def make(host=None, **exits):
        words = dict(arch=ARCH, out_indices=[0, 1, 2, 3], final_norm=False, exits=EXITS | exits)
        return make_msvit(**words, **host or {}).double()

    return make


@pytest.fixture
def make_segmentor():
    def make(kind='GatedEncoderDecoder', num_classes=3, host=None, **exits):
        backbone = dict(type='MSViT', arch=ARCH, img_size=64, exits=EXITS | exits)
        backbone |= dict(gate=dict(type='FixedGate', scale='fine')) | (host or {})
        head = dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=num_classes, norm_cfg=None)
        words = dict(decode_head=head, test_cfg=dict(mode='whole'))
        if kind == 'GatedImageClassifier':
            words = dict(head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=32))
        torch.manual_seed(0)
        return MODELS.build(ConfigDict(type=kind, backbone=backbone, **words)).eval()

    return make


@pytest.mark.parametrize('host', HOSTS, ids=HOST_NAMES)
def test_tokens_that_left_stay_as_they_are(make_exiting, host):
    """Bit for bit, at every later level; others move; the set of those that run shrinks, and no image runs dry."""
    model = make_exiting(host)
    features, choices = model.forward_gated(images())
    layers = choices.maps()['exit_map'].data
    assert {1, 3, 4} == {*layers.unique().tolist()}
    for i, (before, after) in enumerate(pairwise(features), start=1):
        same = (before == after).all(1)
        assert torch.equal(same, layers <= i)
    tokens = choices.costs.num_tokens
    assert (tokens[1:] <= tokens[:-1]).all() and (tokens[1] < tokens[0]).all() and (tokens[3] < tokens[2]).any()
    assert torch.equal(tokens[0], choices.num_tokens) and (tokens[-1] > 0).all()
    with torch.no_grad():
        assert choices.costs.total.sum().item() == count_macs(model, images())
    for i in range(3):
        alone, own = model.forward_gated(images()[i : i + 1])
        assert torch.equal(own.maps()['exit_map'].data[0], layers[i])
        torch.testing.assert_close(tuple(alone), tuple(x[i : i + 1] for x in features), rtol=1e-12, atol=1e-12)
        assert own.costs.total[0] == choices.costs.total[i]


@pytest.mark.parametrize('host', HOSTS, ids=HOST_NAMES)
def test_the_others_attend_to_those_that_run(make_exiting, host):
    """Against layers over all tokens with the softmax over those that run: every token turns by its own angle."""
    model = make_exiting(host)
    features, choices = model.forward_gated(images(1))
    tiling, exits = model.tile(SIZE), model.exits
    active = Packing.select(
        F.pad(active_slots(choices.decisions, tiling).flatten(1), (model.num_extra_tokens, 0), value=1)
    )
    x, angles, runs = (
        model.embed(images(1), tiling, active),
        model.angles(tiling, active),
        torch.ones(len(active.index)).bool(),
    )
    source = MixedGrid(tiling, choices.decisions, active).source()
    for i, layer in enumerate(model.layers):
        if i in exits.layers:
            count = int(runs.sum())
            leaves = exits.choose(
                exits.classifiers[str(i)](x[runs]), PackedSequences([count], torch.zeros(count).long())
            )
            runs[runs.nonzero().squeeze(1)[leaves]] = False
        query, key, value = model.adapter.project(layer, x)
        if angles is not None:
            query, key = (rotate(y, rotation_of(angles)) for y in (query, key))
        scores = torch.einsum('qhc,khc->hqk', query, key) / query.shape[-1] ** 0.5
        attended = torch.einsum('hqk,khc->qhc', scores.masked_fill(~runs, -torch.inf).softmax(-1), value)
        x = torch.where(runs[:, None], model.adapter.finish(layer, x, attended, None), x)
        torch.testing.assert_close(features[i][0], x[source[0]].permute(2, 0, 1), rtol=1e-9, atol=1e-9)
    assert runs[: model.num_extra_tokens].all() and not runs.all()


@pytest.mark.parametrize('host', HOSTS, ids=HOST_NAMES)
def test_a_threshold_of_one_lets_nobody_go(make_exiting, host):
    model = make_exiting(host, threshold=1.0)
    features, choices = model.forward_gated(images())
    with model.configured(between=()):
        plain, whole = model.forward_gated(images())
    assert all(torch.equal(x, y) for x, y in zip(features, plain, strict=True))
    assert torch.equal(choices.costs.num_tokens, whole.costs.num_tokens)
    assert (choices.costs.encoder > whole.costs.encoder).all()  # by the classifiers


def test_the_surest_of_every_class_stay():
    """Against a loop over images and classes; class tokens stay."""
    exits = ConfidentExits(
        layers=(1,), num_classes=3, embed_dims=8, num_extra_tokens=1, threshold=0.6, keep_per_class=2
    )
    logits = 2 * torch.randn(60, 3, dtype=torch.float64)
    sequences = PackedSequences([25, 35], torch.tensor([0] * 25 + [1] * 35))
    leaves = exits.choose(logits, sequences)
    sure, label = logits.softmax(1).max(1)
    for first, last in ((0, 25), (25, 60)):
        assert not leaves[first]
        for name in range(3):
            own = [i for i in range(first + 1, last) if label[i] == name]
            own.sort(key=lambda i: -sure[i].item())
            assert [leaves[i].item() for i in own] == [False] * 2 + [sure[i].item() > 0.6 for i in own[2:]]
    assert leaves.any()


@pytest.mark.parametrize('share', [0.0, 1.0])
def test_tokens_leave_in_a_share_of_the_training(make_exiting, share):
    model = make_exiting(train_share=share).train()
    tokens = model.forward_gated(images())[1].costs.num_tokens
    assert (tokens[-1] < tokens[0]).all() == bool(share)


def test_tokens_learn_the_classes_of_their_pixels():
    """Against a loop over the tokens of two images; what is ignored, or of no token, counts for nothing."""
    token = torch.tensor([[[0, 0, 1], [0, 0, 2]], [[3, -1, 4], [3, 5, 5]]])
    labels = torch.randint(4, (2, 7, 10))
    labels[labels == 3] = 255
    labels[0, :4, 8:] = 255
    logits = torch.randn(6, 3)
    losses = []
    for i in range(6):
        pixels = torch.kron(token, torch.ones(1, 4, 4)).long()[:, :7, :10] == i
        own = labels[pixels & (labels != 255)]
        if len(own):
            losses.append(
                -(torch.stack([(own == c).double().mean() for c in range(3)]) * logits[i].log_softmax(0)).sum()
            )
    assert len(losses) == 5
    torch.testing.assert_close(
        token_loss(logits, token, labels, 4).double(), torch.stack(losses).mean(), rtol=1e-6, atol=0
    )
    assert token_loss(logits, token, torch.full_like(labels, 255), 4) == 0


def test_labels_teach_the_classifiers(make_segmentor):
    model = make_segmentor().train()
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(3, (1, 64, 64))))
    sample.set_metainfo(dict(img_shape=(64, 64)))
    losses = model.loss(torch.randn(2, 3, 64, 64), [sample, sample])
    assert {'loss_exit_1', 'loss_exit_3'} <= set(losses)
    sum(x for name, x in losses.items() if name.startswith('loss_exit')).backward()
    assert all(x.grad.any() for x in model.backbone.exits.parameters())
    half = make_segmentor(loss_weight=0.2).train()
    torch.manual_seed(1)
    first = half.loss(torch.randn(2, 3, 64, 64), [sample, sample])['loss_exit_1']
    torch.manual_seed(1)
    again = model.loss(torch.randn(2, 3, 64, 64), [sample, sample])['loss_exit_1']
    torch.testing.assert_close(2 * first, again)


@pytest.mark.parametrize('host', HOSTS[1:], ids=HOST_NAMES[1:])
def test_a_segmentor_of_registers_and_rotary_positions(make_segmentor, perturb, host):
    """A step teaches all of it, tokens that left included; an image alone is predicted as in a batch."""
    gate = dict(type='ScaleGate', initial_ratio=0.5, sample_size=8)
    model = perturb(make_segmentor(host=host | dict(gate=gate), train_share=1.0, freeze_logits=True)).double()
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(3, (1, *SIZE))), metainfo=dict(img_shape=SIZE))
    losses = model.train().loss(images(2), [sample, sample])
    sum(x.mean() for name, x in losses.items() if 'loss' in name).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    with torch.no_grad():
        together = model.eval().predict(images(2))
        alone = [model.predict(images(2)[i : i + 1])[0] for i in range(2)]
    for own, other in zip(alone, together, strict=True):
        assert len(own.exit_map.data.unique()) > 1
        assert torch.equal(own.exit_map.data, other.exit_map.data) and own.gmacs == other.gmacs
        torch.testing.assert_close(own.seg_logits.data, other.seg_logits.data, rtol=1e-9, atol=1e-9)


def test_frozen_logits_are_those_of_the_exits(make_segmentor):
    inputs, samples = torch.randn(2, 3, 64, 64), None
    models = [make_segmentor(freeze_logits=freeze) for freeze in (False, True)]
    with torch.no_grad():
        plain, frozen = (model.predict(inputs, samples) for model in models)
        steps = models[1].backbone.forward_gated(inputs)[1].steps
    logits, left = (x.repeat_interleave(16, 2).repeat_interleave(16, 3) for x in steps.frozen)
    assert left.any() and not left.all()
    for i in range(2):
        wanted = torch.where(left[i], logits[i], plain[i].seg_logits.data)
        torch.testing.assert_close(frozen[i].seg_logits.data, wanted)
        assert torch.equal(plain[i].exit_map.data.squeeze() < 4, steps.frozen[1][i, 0])


@pytest.mark.parametrize(
    ('exits', 'message'),
    [
        (dict(threshold=0.0), r'^exits: wanted a threshold in \(0, 1\], got 0.0$'),
        (dict(threshold=1.2), r'^exits: wanted a threshold in \(0, 1\], got 1.2$'),
        (dict(train_share=-1), r'^exits: wanted a train_share in \[0, 1\], got -1$'),
        (dict(keep_per_class=0), '^exits: wanted keep_per_class >= 1 and num_classes >= 2, got 0 and 3$'),
        (dict(layers=(1, 4)), r'^exits: layers: wanted layers in \[1, 3\], got \[4\]$'),
        (dict(layers=(0,)), r'^exits: layers: wanted layers in \[1, 3\], got \[0\]$'),
    ],
    ids=str,
)
def test_what_is_refused(make_exiting, exits, message):
    with pytest.raises(ValueError, match=message):
        make_exiting(**exits)


def test_exits_need_labels(make_segmentor, make_msvit):
    wanted = '^exits: wanted a segmentor of 3 classes, whose labels teach them, got '
    init_default_scope('mmpretrain')
    with pytest.raises(ValueError, match=wanted + 'GatedImageClassifier, which has no label maps$'):
        make_segmentor('GatedImageClassifier')
    init_default_scope('mmseg')
    with pytest.raises(ValueError, match=wanted + 'one of 5 classes$'):
        make_segmentor(num_classes=5)
    with pytest.raises(ValueError, match='^exits: wanted layers and the num_classes of the labels .* got .*layers'):
        make_msvit(arch=ARCH, exits=dict(layers=(1,)))
    with pytest.raises(ValueError, match="^exits: wanted attention_scope='image', got 'region'"):
        make_msvit(arch=ARCH, exits=EXITS, with_cls_token=False, attention_scope='region')
