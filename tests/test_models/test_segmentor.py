import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from msvit_mm.engine.fitting import check_target
from msvit_mm.ops.macs import count_macs
from msvit_mm.ops.tiling import nodes_to_cells

SLIDE = dict(mode='slide', crop_size=(64, 96), stride=(40, 56))
SLIDE_SIZES = [(64, 96), (100, 200), (104, 152), (50, 200), (40, 70)]


@pytest.fixture
def make_segmentor(tiny_arch, perturb):
    """Build a tiny gated segmentor of 5 classes, in evaluation mode; words are merged into its config."""

    def make(gate=None, head='FCNHead', **kwargs):
        gate = gate or dict(type='ScaleGate', initial_ratio=0.5)
        norm_cfg = dict(type='GN', num_groups=2)
        heads = dict(
            FCNHead=dict(type='FCNHead', in_channels=32, in_index=1, num_convs=1),
            UPerHead=dict(type='UPerHead', in_channels=[32, 32], in_index=[0, 1], pool_scales=(1, 2)),
        )
        config = dict(
            type='GatedEncoderDecoder',
            data_preprocessor=dict(
                type='SegDataPreProcessor',
                mean=[120.0, 110.0, 100.0],
                std=[60.0, 50.0, 40.0],
                bgr_to_rgb=True,
                size=(64, 96),
                test_cfg=dict(size_divisor=32),
            ),
            backbone=dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), out_indices=[0, 1], gate=gate),
            decode_head=dict(channels=8, num_classes=5, norm_cfg=norm_cfg, **heads[head]),
            gate_loss=dict(type='BatchShapingLoss', coarse_ratio=0.5),
            test_cfg=dict(mode='whole'),
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return perturb(MODELS.build(ConfigDict(config | kwargs))).eval()

    return make


@pytest.fixture
def batch():
    """Raw images, BGR in 0..255, and labels."""
    generator = torch.Generator().manual_seed(1)
    samples = []
    for _ in range(3):
        labels = torch.randint(5, (1, 64, 96), generator=generator)
        meta = dict(img_shape=(64, 96), ori_shape=(64, 96), img_path='image.png')
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta))
    inputs = [torch.randint(256, (3, 64, 96), generator=generator, dtype=torch.uint8) for _ in samples]
    return dict(inputs=inputs, data_samples=samples)


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


@pytest.fixture
def teacher(tiny_arch, trained):
    """Words of a teacher whose regions are all fine."""
    words = dict(
        type='GatedEncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0], bgr_to_rgb=True
        ),
        backbone=dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), gate=dict(type='FixedGate', scale='fine')),
        decode_head=dict(type='FCNHead', in_channels=32, channels=8, num_classes=5, norm_cfg=dict(type='BN')),
    )
    return trained(words)


@pytest.mark.parametrize('head', ['FCNHead', 'UPerHead'])
def test_a_teacher_changes_no_other_loss(make_segmentor, batch, head, teacher):
    plain = losses_of(make_segmentor(head=head), batch)
    taught = losses_of(make_segmentor(head=head, teacher_loss=dict(type='TeacherLoss', teacher=teacher)), batch)
    assert taught.pop('loss_teacher') > 0 and taught.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(taught[name], value)


def test_a_teacher_reaches_the_gate(make_segmentor, batch, teacher):
    """Its contrast between the scales of a region is the gate's gradient, without any label."""
    model = make_segmentor(teacher_loss=dict(type='TeacherLoss', teacher=teacher))
    losses_of(model, batch)['loss_teacher'].backward()
    assert all(x.grad.abs().sum() > 0 for x in model.backbone.gate.parameters())


@MODELS.register_module()
class OwnLossHead(FCNHead):
    def loss(self, inputs, batch_data_samples, train_cfg):
        raise NotImplementedError


def test_a_teacher_needs_the_usual_head_and_one_normalisation(make_segmentor, teacher):
    teacher['data_preprocessor']['std'] = [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="teacher: wanted images normalised as the model's are, by .*60.*, got .*1.0"):
        make_segmentor(teacher_loss=dict(type='TeacherLoss', teacher=teacher))
    own = dict(type='OwnLossHead', in_channels=32, in_index=1, channels=8, num_classes=5)
    with pytest.raises(ValueError, match='wanted a head with the loss of BaseDecodeHead, got OwnLossHead'):
        make_segmentor(decode_head=own, teacher_loss=dict(type='TeacherLoss', teacher=teacher))


@pytest.mark.parametrize('gate_loss', [None, dict(type='BatchShapingLoss', coarse_ratio=0.5)], ids=str)
def test_labels_supervise_the_gate(make_segmentor, batch, gate_loss):
    model = make_segmentor(boundary_loss=dict(type='BoundaryGateLoss', weight=3.0), gate_loss=gate_loss)
    batch['data_samples'][0].gt_sem_seg.data[:] = 2  # one image without boundaries, the others are noise
    losses = losses_of(model, batch)
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    logits = model.backbone.gate(data['inputs'])
    coarse = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand_as(logits)
    expected = 3 * torch.nn.functional.binary_cross_entropy_with_logits(logits, coarse)
    torch.testing.assert_close(losses['loss_gate_boundary'], expected)
    model.gate_phase = 'warmup'
    assert losses_of(model, batch)['loss_gate_boundary'] == 0
    plain = make_segmentor(gate_loss=gate_loss)
    assert set(losses_of(plain, batch)) | {'loss_gate_boundary'} == set(losses)


UTILITY = dict(type='UtilityGateLoss', coarse_ratio=0.5)


def test_utilities_are_what_the_other_scale_costs_the_task(make_segmentor, batch, monkeypatch):
    """Against maps in which the cells of the drawn regions are swapped by hand, one region's losses at a time."""
    model = make_segmentor(utility_loss=UTILITY)
    model.backbone.counterfactual_share = 1.0
    passes = record(monkeypatch, model.backbone, 'forward_gated')
    seen = record(monkeypatch, model, '_utilities')
    losses = losses_of(model, batch)
    assert losses['loss_gate_utility'] > 0
    ((features, choices),), ((wins, drawn),) = passes, seen
    assert drawn.all()
    labels = torch.cat([sample.gt_sem_seg.data for sample in batch['data_samples']])
    swapped = choices.counterfactual.swap(drawn)
    with torch.no_grad():
        model.decode_head.eval()
        own, other = (
            F.cross_entropy(F.interpolate(model.decode_head(x), (64, 96), mode='bilinear'), labels, reduction='none')
            for x in (features, swapped)
        )
    wanted = torch.stack(
        [(own - other)[:, 32 * i : 32 * i + 32, 32 * j : 32 * j + 32].mean((1, 2)) for i in range(2) for j in range(3)]
    )
    torch.testing.assert_close(wins.flatten(1).T, wanted, rtol=1e-4, atol=1e-5)
    for x, y in zip(choices.counterfactual.swap(torch.zeros_like(drawn)), features, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(train_execution='packed'), "wanted train_execution='counterfactual', .*got 'packed'"),
        (dict(train_execution='masked', gate_gradient='mask'), "got 'masked' and 'mask'"),
    ],
)
def test_utilities_need_both_scales(make_segmentor, tiny_arch, words, message):
    backbone = dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), out_indices=[0, 1]) | words
    with pytest.raises(ValueError, match=message):
        make_segmentor(utility_loss=UTILITY, backbone=backbone)


def test_regions_without_labels_have_no_utility(make_segmentor, batch, monkeypatch):
    model = make_segmentor(utility_loss=UTILITY)
    model.backbone.counterfactual_share = 1.0
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data[:, 32:] = 255
    seen = record(monkeypatch, model, '_utilities')
    losses_of(model, batch)
    ((_, drawn),) = seen
    assert drawn[:, 0].all() and not drawn[:, 1].any()


def test_one_score_tells_no_softmax(make_segmentor, teacher):
    head = dict(type='FCNHead', in_channels=32, in_index=-1, channels=8, num_convs=1, num_classes=2, out_channels=1)
    head |= dict(threshold=0.5, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
    for words in (dict(utility_loss=UTILITY), dict(teacher_loss=dict(type='TeacherLoss', teacher=teacher))):
        with pytest.raises(ValueError, match='wanted a head with a score for each class, got one of out_channels=1'):
            make_segmentor(decode_head=head, **words)
    model = make_segmentor(decode_head=head)
    for target in ('uncertainty', 'utility'):
        with pytest.raises(ValueError, match=f'target {target}: wanted a head with a score for each class'):
            check_target(model, [target])


def test_utilities_rest_in_warm_up_and_between_turns(make_segmentor, batch):
    model = make_segmentor(utility_loss=UTILITY | dict(every=2))
    names = [set(losses_of(model, batch)) for _ in range(3)]
    assert ['loss_gate_utility' in x for x in names] == [True, False, True]
    model.gate_phase = 'warmup'
    assert 'loss_gate_utility' not in losses_of(model, batch)


@pytest.mark.parametrize('head', ['FCNHead', 'UPerHead'])
def test_losses_and_statistics(make_segmentor, batch, monkeypatch, head):
    model = make_segmentor(head=head, auxiliary_head=dict(type='FCNHead', in_channels=32, channels=8, num_classes=5))
    forwards = record(monkeypatch, model.backbone, 'forward_gated')
    losses = losses_of(model, batch)
    expected = {'decode.loss_ce', 'aux.loss_ce', 'loss_gate_prior', 'loss_gate_hyper', 'loss_gate_temperature'}
    assert {name for name in losses if 'loss' in name} == expected
    total, logged = model.parse_losses(losses)
    assert total.item() == pytest.approx(sum(losses[name].item() for name in expected))
    ((_, gate),) = forwards
    ratios = gate.decisions.mean((1, 2))
    assert ratios.std() > 0
    assert logged['coarse_ratio'].item() == pytest.approx(ratios.mean().item())
    assert logged['coarse_ratio_std'].item() == pytest.approx(ratios.std(correction=0).item())
    assert logged['num_tokens'].item() == pytest.approx(gate.num_tokens.float().mean().item())
    gmacs = gate.costs.total.mean().item() / 1e9
    assert logged['gmacs'].item() == pytest.approx(gmacs)


def test_every_parameter_learns(make_segmentor, batch):
    model = make_segmentor(head='UPerHead')
    model.parse_losses(losses_of(model, batch))[0].backward()
    for name, parameter in model.named_parameters():
        if name == 'gate_loss.mean_logits':  # both distances may balance at the start
            continue
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_train_step_moves_the_gate(make_segmentor, batch):
    model = make_segmentor().train()
    before = copy.deepcopy(model.backbone.gate.state_dict())
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    logged = model.train_step(copy.deepcopy(batch), wrapper)
    assert logged['loss'].isfinite()
    assert all(not torch.equal(value, before[name]) for name, value in model.backbone.gate.state_dict().items())


@pytest.mark.parametrize(('coarse_ratio', 'num_coarse'), [(1.0, 6), (0.0, 0), (0.5, 3)])
def test_warm_up_executes_the_random_decisions(make_segmentor, batch, monkeypatch, coarse_ratio, num_coarse):
    model = make_segmentor(warmup_gate=dict(type='RandomGate', coarse_ratio=coarse_ratio))
    model.gate_phase = 'warmup'
    forwards = record(monkeypatch, model.backbone, 'forward_gated')
    for seed in range(4):
        losses_of(model, batch, seed)
    decisions = torch.stack([gate.decisions for _, gate in forwards])
    assert (decisions.sum((2, 3)) == num_coarse).all()
    assert 0 < num_coarse < 6 or decisions.std() == 0
    assert (len(decisions.flatten(0, 1).unique(dim=0)) > 2) == (0 < num_coarse < 6)


def test_default_warm_up_covers_all_ratios(make_segmentor):
    """A backbone must meet what the gate may ask of it: from all fine to all coarse."""
    model = make_segmentor()
    model.gate_phase = 'warmup'
    seen = []
    model.backbone.forward_gated = lambda inputs, decisions: seen.append(decisions.mean().item()) or 1 / 0
    for _ in range(200):
        with pytest.raises(ZeroDivisionError):
            model.loss(torch.zeros(1, 3, 64, 96), [])
    assert {0.0, 1.0} < set(seen)
    assert sum(seen) / len(seen) == pytest.approx(0.5, abs=0.1)


def test_warm_up_rests_the_gate(make_segmentor, batch):
    model = make_segmentor()
    model.gate_phase = 'warmup'
    losses = losses_of(model, batch)
    assert all(losses[name] == 0 for name in losses if name.startswith('loss_gate'))
    model.parse_losses(losses)[0].backward()
    resting = [*model.backbone.gate.parameters(), *model.gate_loss.parameters()]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in resting)  # none is unused
    assert model.backbone.layers[0].attn.qkv.weight.grad.any()


def test_warm_up_leaves_a_fixed_gate_alone(make_segmentor, batch, monkeypatch):
    model = make_segmentor(gate=dict(type='FixedGate', scale='coarse'), gate_loss=None)
    model.gate_phase = 'warmup'
    forwards = record(monkeypatch, model.backbone, 'forward_gated')
    losses = losses_of(model, batch)
    assert forwards[0][1].decisions.all()
    assert not any(name.startswith('loss_gate') for name in losses)


@pytest.mark.parametrize('num_crops', [1, 3])
def test_gate_crops_reach_the_gate_loss_alone(make_segmentor, batch, monkeypatch, num_crops):
    model = make_segmentor()
    plain = losses_of(model, batch)
    seen = record(monkeypatch, model.backbone.gate, 'forward')
    values = record(monkeypatch, model.gate_loss, 'global_batch')
    for sample, image in zip(batch['data_samples'], batch['inputs'], strict=True):
        sample.set_field(image.expand(num_crops, -1, -1, -1).contiguous(), 'gate_crops')
    losses = losses_of(model, batch)
    assert torch.equal(losses['decode.loss_ce'], plain['decode.loss_ce'])
    assert not torch.equal(losses['loss_gate_prior'], plain['loss_gate_prior'])
    assert len(values[0]) == 3 + 3 * num_crops
    # crops that are the images themselves get the logits of the images: they are normalised alike
    torch.testing.assert_close(seen[1], seen[0].repeat_interleave(num_crops, dim=0))
    assert losses['coarse_ratio'] == plain['coarse_ratio']


def test_plain_encoder_decoder_over_the_backbone(make_segmentor, batch):
    model = make_segmentor()
    config = dict(
        type='EncoderDecoder', backbone=dict(type='MSViT', arch=model.backbone.arch_settings, out_indices=[0, 1])
    )
    config |= dict(decode_head=dict(type='FCNHead', in_channels=32, in_index=1, channels=8, num_classes=5))
    config |= dict(data_preprocessor=model.data_preprocessor, test_cfg=ConfigDict(mode='whole'))
    plain = MODELS.build(config)
    plain.parse_losses(losses_of(plain, batch))[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in plain.backbone.parameters())
    predictions = plain.eval().test_step(batch)
    assert [sample.pred_sem_seg.shape for sample in predictions] == [(64, 96)] * 3


# Prediction


@pytest.mark.parametrize('head', ['FCNHead', 'UPerHead'])
def test_prediction_carries_choices_and_cost(make_segmentor, batch, head):
    model = make_segmentor(head=head)
    inputs = model.data_preprocessor(copy.deepcopy(batch))['inputs']
    predictions = model.test_step(batch)
    with torch.no_grad():
        _, gate = model.backbone.forward_gated(inputs)
    assert len(set(gate.num_tokens.tolist())) > 1
    for i, sample in enumerate(predictions):
        assert torch.equal(sample.scale_map.data, gate.decisions[i : i + 1])
        torch.testing.assert_close(sample.gate_logits.data, gate.gate_logits[i : i + 1])
        assert sample.num_tokens == gate.num_tokens[i].item()
        assert sample.coarse_patch_size == 32
        assert sample.pred_sem_seg.shape == (64, 96)
        with torch.no_grad():
            metas = [dict(img_shape=(64, 96))]
            whole = count_macs(model.encode_decode, inputs[i : i + 1], metas) / 1e9
            backbone = count_macs(model.backbone, inputs[i : i + 1]) / 1e9
        assert sample.gmacs == pytest.approx(whole, rel=1e-3)
        assert sample.backbone_gmacs == pytest.approx(backbone, rel=1e-3)
        assert 0 < sample.backbone_gmacs < sample.gmacs
        parts = [sample.get(f'{name}_gmacs') for name in ('gate', 'embedding', 'encoder')]
        assert min(parts) > 0 and sum(parts) == pytest.approx(sample.backbone_gmacs)
        assert sample.reference_gmacs == model.backbone.dense_costs((64, 96)).reference / 1e9
        assert sample.cost_ratio == pytest.approx(sample.backbone_gmacs / sample.reference_gmacs)
        assert sample.choice_maps == dict(scale_map=('scale', 32), gate_logits=('logits', 32))


def test_tensors_alone_can_be_predicted(make_segmentor):
    predictions = make_segmentor().predict(torch.rand(2, 3, 70, 90))
    assert [sample.scale_map.shape for sample in predictions] == [(3, 3)] * 2
    assert [sample.seg_logits.data.shape for sample in predictions] == [(5, 70, 90)] * 2


@pytest.mark.parametrize(('height', 'width'), SLIDE_SIZES)
def test_slide_inference_is_the_hosts(make_segmentor, monkeypatch, height, width):
    model = make_segmentor(test_cfg=SLIDE)
    images = torch.randn(2, 3, height, width)
    metas = [dict(img_shape=(height, width), ori_shape=(height, width)) for _ in images]
    forwards = record(monkeypatch, model.backbone, 'forward_gated')
    with torch.no_grad():
        expected = EncoderDecoder.slide_inference(model, images, copy.deepcopy(metas))
        num_windows = len(forwards)
        seg_logits, _, costs, num_tokens, decoder_macs = model.inference_gated(images, metas)
    torch.testing.assert_close(seg_logits, expected, rtol=1e-5, atol=1e-5)
    assert metas == [dict(img_shape=(height, width), ori_shape=(height, width)) for _ in images]
    gates = [gate for _, gate in forwards[num_windows:]]
    assert len(gates) == num_windows
    assert torch.equal(num_tokens, sum(gate.num_tokens for gate in gates))
    window = (min(height, 64), min(width, 96))
    decoder = model._decoder_macs[-(-window[0] // 16), -(-window[1] // 16)]
    stated = [model.backbone.costs_of(gate.decisions, window) for gate in gates]
    for name in ('gate', 'embedding', 'encoder', 'total'):
        torch.testing.assert_close(getattr(costs, name), sum(getattr(x, name) for x in stated))
    assert costs.reference == model.backbone.dense_costs(window).reference * num_windows
    assert decoder_macs.tolist() == [decoder * num_windows] * 2


@pytest.mark.parametrize(('height', 'width'), SLIDE_SIZES)
def test_windows_are_the_hosts(make_segmentor, height, width):
    model = make_segmentor(test_cfg=SLIDE)
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij'))[None]
    windows = []

    def encode_decode(crop, metas):
        (top, left), (bottom, right) = crop[0, :, 0, 0].tolist(), crop[0, :, -1, -1].tolist()
        windows.append((top, left, bottom + 1, right + 1))
        return torch.zeros(1, 5, *crop.shape[2:])

    model.encode_decode = encode_decode
    EncoderDecoder.slide_inference(model, places.float(), [{}])
    assert model.windows((height, width)) == windows


def test_slide_scale_map_is_the_mean_over_windows(make_segmentor, monkeypatch):
    model = make_segmentor(test_cfg=dict(mode='slide', crop_size=(64, 96), stride=(64, 32)))
    forwards = record(monkeypatch, model.backbone, 'forward_gated')
    _, maps, *_ = model.inference_gated(torch.randn(1, 3, 64, 160), [dict(img_shape=(64, 160))])
    total, visits = torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)
    assert len(forwards) == 3
    for i, (_, gate) in enumerate(forwards):
        total[:, :, i : i + 3] += gate.decisions
        visits[:, :, i : i + 3] += 1
    torch.testing.assert_close(maps['scale_map'].data, total / visits)
    assert (maps['scale_map'].cell, maps['scale_map'].kind) == (32, 'scale')


@pytest.mark.parametrize('stride', [(96, 96), (64, 0)])
def test_windows_with_gaps_are_refused(make_segmentor, stride):
    model = make_segmentor(test_cfg=dict(mode='slide', crop_size=(64, 96), stride=stride))
    with pytest.raises(ValueError, match=r'test_cfg.stride: wanted a stride of 1 to crop_size \(64, 96\), .* got'):
        model.predict(torch.rand(1, 3, 200, 200))


def test_unknown_mode(make_segmentor):
    with pytest.raises(ValueError, match="test_cfg.mode must be 'whole' or 'slide', got 'tiles'"):
        make_segmentor(test_cfg=dict(mode='tiles')).predict(torch.rand(1, 3, 64, 96))


@pytest.mark.parametrize(('direction', 'dim'), [('horizontal', 2), ('vertical', 1)])
def test_scale_map_is_unpadded_and_unflipped(make_segmentor, direction, dim):
    model = make_segmentor(gate=dict(type='EdgeGate', coarse_ratio=0.5), gate_loss=None)
    images = torch.randn(1, 3, 96, 128)
    meta = dict(ori_shape=(64, 96), img_shape=(64, 96), pad_shape=(96, 128), img_padding_size=(0, 32, 0, 32))
    meta |= dict(flip=True, flip_direction=direction)
    (sample,) = model.predict(images, [SegDataSample(metainfo=meta)])
    _, gate = model.backbone.forward_gated(images)
    assert torch.equal(sample.scale_map.data, gate.decisions[:, :2, :3].flip(dim))
    torch.testing.assert_close(sample.gate_logits.data, gate.gate_logits[:, :2, :3].flip(dim))
    assert len(set(sample.scale_map.data.flatten().tolist())) == 2


def test_padding_of_the_preprocessor_is_taken_off(make_segmentor):
    model = make_segmentor()
    meta = dict(img_shape=(40, 60), ori_shape=(80, 120), img_path='image.png')
    image = torch.randint(256, (3, 40, 60), dtype=torch.uint8)
    (sample,) = model.test_step(dict(inputs=[image], data_samples=[SegDataSample(metainfo=meta)]))
    assert sample.scale_map.shape == (2, 2)
    assert sample.pred_sem_seg.shape == (80, 120)


def test_scale_map_marks_the_cells_of_coarse_tokens(make_segmentor):
    """The map on the sample and the features that were decoded belong together."""
    model = make_segmentor(gate=dict(type='EdgeGate', coarse_ratio=0.5), gate_loss=None)
    images = torch.randn(1, 3, 64, 96)
    (sample,) = model.predict(images)
    features = model.backbone(images)[-1]
    cells = nodes_to_cells(sample.scale_map.data, model.backbone.tile((64, 96)))
    same_as_right_neighbour = (features[..., ::2] == features[..., 1::2]).all(1)
    assert torch.equal(same_as_right_neighbour, cells[..., ::2].bool())


def test_augmented_views_add_up(make_segmentor, batch):
    model = make_segmentor()
    image, sample = batch['inputs'][0], batch['data_samples'][0]
    flipped = copy.deepcopy(sample)
    flipped.set_metainfo(dict(flip=True, flip_direction='horizontal'))
    views = [(image, sample), (image.flip(2), flipped)]
    data = [dict(inputs=[view], data_samples=[copy.deepcopy(meta)]) for view, meta in views]
    singles = [model.test_step(copy.deepcopy(view))[0] for view in data]
    augmented = MODELS.build(dict(type='GatedSegTTAModel', module=model)).eval()
    (merged,) = augmented.test_step({key: [view[key] for view in data] for key in ('inputs', 'data_samples')})
    assert singles[0].num_tokens != 0
    for name in ('num_tokens', 'backbone_gmacs', 'gmacs', 'gate_gmacs', 'embedding_gmacs', 'reference_gmacs'):
        assert merged.get(name) == pytest.approx(sum(single.get(name) for single in singles))
    assert merged.cost_ratio == pytest.approx(merged.backbone_gmacs / merged.reference_gmacs)
    assert torch.equal(merged.scale_map.data, singles[0].scale_map.data)
    assert torch.equal(merged.gate_logits.data, singles[0].gate_logits.data)
    mean = sum(single.seg_logits.data.softmax(0) for single in singles)
    assert torch.equal(merged.pred_sem_seg.data.squeeze(), mean.argmax(0))


def test_the_merged_map_belongs_to_the_merged_image_size(make_segmentor):
    """With views of several sizes, metrics that overlay the map on the image must find the view it was made from."""
    model = make_segmentor()
    data = []
    for size in ((64, 96), (96, 144)):
        meta = dict(img_shape=size, ori_shape=(64, 96), img_path='image.png')
        image = torch.randint(256, (3, *size), dtype=torch.uint8)
        data.append(dict(inputs=[image], data_samples=[SegDataSample(metainfo=meta)]))
    augmented = MODELS.build(dict(type='GatedSegTTAModel', module=model)).eval()
    (merged,) = augmented.test_step({key: [view[key] for view in data] for key in ('inputs', 'data_samples')})
    regions = tuple(-(-side // merged.coarse_patch_size) for side in merged.img_shape)
    assert merged.scale_map.shape == merged.gate_logits.shape == regions


def test_groups_of_sliding_windows_are_of_one_window_each(make_segmentor, tiny_arch):
    """No two windows share a number; each cell shows the last window that saw it, and other maps their mean."""
    words = dict(arch=tiny_arch, img_size=(64, 96), out_indices=[0, 1], gate=dict(type='FixedGate', scale='fine'))
    merge = dict(type='Bipartite', before=(0,), share=0.5)
    model = make_segmentor(backbone=dict(type='MSViT', **words, merge=merge), gate_loss=None, test_cfg=SLIDE)
    images = torch.randn(2, 3, 104, 152)
    with torch.no_grad():
        samples = model.predict(images)
        last = model.backbone.forward_gated(images[:, :, 40:, 56:])[1].maps()['merge_map'].data
    for sample, window in zip(samples, last, strict=True):
        groups = sample.merge_map.data[0]
        assert groups.shape == (7, 10) and sample.choice_maps['merge_map'] == ('groups', 16)
        inside = groups[3:, 4:]  # cells wholly in the last of four windows
        own = torch.tensor([[x in inside for x in row] for row in groups])
        assert own.sum() == inside.numel() and not own[:2].any() and not own[:, :3].any()
        assert len(inside.unique()) <= len(window.unique())
    assert samples[0].num_tokens == 4 * 24


def test_layers_of_sliding_windows_are_those_that_there_are(make_segmentor, tiny_arch):
    exits = dict(layers=(1,), num_classes=5, threshold=0.5, keep_per_class=1)
    words = dict(arch=tiny_arch, img_size=(64, 96), out_indices=[0, 1], gate=dict(type='FixedGate', scale='fine'))
    model = make_segmentor(backbone=dict(type='MSViT', **words, exits=exits), gate_loss=None, test_cfg=SLIDE)
    torch.nn.init.normal_(model.backbone.exits.classifiers['1'][1].weight, std=3)
    with torch.no_grad():
        layers = model.predict(torch.randn(1, 3, 104, 152))[0].exit_map.data
    assert set(layers.unique().tolist()) == {1, 2}
