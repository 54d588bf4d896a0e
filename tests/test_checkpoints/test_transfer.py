"""Moving a gate: what it says stays the same, and what cannot stay the same is refused."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement

from msvit_mm.checkpoints import compare_scale_maps, load_gate, transfer_gate
from msvit_mm.ops.priors import resample_prior

PLAIN = dict(mean=[127.5] * 3, std=[63.75] * 3)
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
SAME_STD = dict(mean=[123.675, 116.28, 103.53], std=[63.75] * 3)
SWAPPED = {name: values[::-1] for name, values in IMAGENET.items()}
PRIOR_NAMES = ('mean_logits', 'log_temperatures')


@pytest.fixture
def make_segmentor(tiny_arch, perturb):
    """A tiny segmentor, of which every parameter, the priors too, is off its initial value."""

    def make(normalization=IMAGENET, rgb=True, pixels='both', seed=0, gate_loss=True, **backbone):
        arch = tiny_arch | backbone.pop('arch', {})
        gate = backbone.pop('gate', dict(type='ScaleGate')) | dict(pixels=pixels)
        model = MODELS.build(
            dict(
                type='GatedEncoderDecoder',
                data_preprocessor=dict(type='SegDataPreProcessor', bgr_to_rgb=rgb, **normalization),
                backbone=dict(type='MSViT', arch=arch, gate=gate) | dict(img_size=(64, 96)) | backbone,
                decode_head=dict(type='FCNHead', in_channels=arch['embed_dims'], channels=8, num_classes=3),
                gate_loss=dict(type='BatchShapingLoss') if gate_loss else None,
                test_cfg=dict(mode='whole'),
            )
        )
        return perturb(model, seed=seed).eval()

    return make


@pytest.fixture
def make_classifier(tiny_arch, perturb):
    def make(normalization=IMAGENET, rgb=True, pixels='both', seed=1):
        init_default_scope('mmpretrain')
        model = MODELS.build(
            dict(
                type='GatedImageClassifier',
                data_preprocessor=dict(type='ClsDataPreprocessor', to_rgb=rgb, **normalization),
                backbone=dict(
                    type='MSViT', arch=tiny_arch, img_size=(96, 64), gate=dict(type='ScaleGate', pixels=pixels)
                ),
                head=dict(type='LinearClsHead', num_classes=4, in_channels=32),
                gate_loss=dict(type='BatchShapingLoss'),
            )
        )
        init_default_scope('mmseg')
        return perturb(model, seed=seed).eval()

    return make


def logits(model, images):
    batch = dict(inputs=list(images), data_samples=[BaseDataElement() for _ in images])
    return model.backbone.gate(model.data_preprocessor(batch)['inputs'])


def photos(height=64, width=96):
    """Noise of another strength in every image and region: flat, faint and strong."""
    strength = torch.rand(4, 1, -(-height // 32), -(-width // 32)).repeat_interleave(32, 2).repeat_interleave(32, 3)
    noise = torch.randn(4, 3, height, width) * 60 * strength[..., :height, :width] ** 2
    return (noise + 255 * torch.rand(4, 3, 1, 1)).clamp(0, 255).byte()


@pytest.mark.parametrize(
    ('pixels', 'source', 'target'),
    [
        ('raw', (IMAGENET, True), (PLAIN, True)),
        ('raw', (IMAGENET, True), (SAME_STD, False)),
        ('raw', (PLAIN, False), (IMAGENET, True)),
        ('raw', (PLAIN, False), ({}, False)),  # no normalisation at all
        ('normalized', (PLAIN, True), (SAME_STD, False)),
        ('both', (PLAIN, True), (PLAIN, False)),
        ('both', (SAME_STD, False), (PLAIN, True)),
        ('both', (IMAGENET, True), (SWAPPED, False)),
    ],
)
def test_a_moved_gate_says_the_same(make_segmentor, make_classifier, pixels, source, target):
    source, target = make_classifier(*source, pixels=pixels), make_segmentor(*target, pixels=pixels)
    moved, report = transfer_gate(source, target)
    images = photos()
    target.backbone.gate.load_state_dict(source.backbone.gate.state_dict())
    unmapped, wanted = logits(target, images), logits(source, images)
    target.load_state_dict(moved, strict=False)
    assert (unmapped - wanted).abs().max() > 1e-2
    torch.testing.assert_close(logits(target, images), wanted, rtol=0, atol=1e-4)
    assert len(report['mapped']) == 2


@pytest.mark.parametrize(
    ('source', 'target', 'exact'),
    [((PLAIN, True), (PLAIN, False), True), ((PLAIN, True), (SAME_STD, True), False)],
)
def test_where_exactness_ends(make_segmentor, source, target, exact):
    source, target = make_segmentor(*source), make_segmentor(*target, seed=1)
    moved, report = transfer_gate(source, target)
    target.load_state_dict(moved, strict=False)
    images = photos(70, 90)  # two of three rows and columns of regions are whole
    wanted, got = logits(source, images), logits(target, images)
    torch.testing.assert_close(got[:, :2, :2], wanted[:, :2, :2], rtol=0, atol=1e-4)
    assert torch.allclose(got, wanted, atol=1e-4) == exact
    assert all(line.endswith(': exact') == exact for line in report['mapped'])
    assert all(line.endswith('exact but for regions padded at the border') != exact for line in report['mapped'])


def test_one_normalisation_moves_every_bit(make_segmentor, make_classifier):
    source, target = make_classifier(), make_segmentor()
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    moved, report = transfer_gate(source, target)
    assert report['mapped'] == report['left'] == []
    assert report['resampled'] == [f'gate_loss.{name}, 3 x 2 to 2 x 3 regions' for name in PRIOR_NAMES]
    assert report['moved'] == list(moved)
    assert moved.keys() == {key for key in before if key.startswith(('backbone.gate.', 'gate_loss.'))}
    for key in moved:
        assert 'gate_loss' in key or torch.equal(moved[key], source.state_dict()[key])
    assert all(torch.equal(tensor, before[key]) for key, tensor in target.state_dict().items())


@pytest.mark.parametrize('pixels', ['normalized', 'both'])
@pytest.mark.parametrize(
    ('source', 'target', 'ratios'),
    [(IMAGENET, PLAIN, '1.092, 1.116, 1.111'), (PLAIN, dict(mean=[0] * 3, std=[127.5] * 3), '2, 2, 2')],
)
def test_normalized_pixels_need_equal_std(make_segmentor, pixels, source, target, ratios):
    source, target = make_segmentor(source, pixels=pixels), make_segmentor(target, pixels=pixels)
    message = f"pixels='{pixels}' moves exactly between equal std alone .* wanted .* = 1, got {ratios}; give the target"
    with pytest.raises(ValueError, match=message):
        transfer_gate(source, target)


def test_other_preprocessor(make_segmentor):
    source, target = make_segmentor(), make_segmentor()
    target.data_preprocessor.forward = lambda batch: dict(inputs=torch.stack(batch['inputs']).sqrt())
    with pytest.raises(ValueError, match='data_preprocessor: wanted an affine map of the channels, got SegDataPre'):
        transfer_gate(source, target)


# Priors


@pytest.mark.parametrize('grid', [(1, 1), (2, 3), (3, 2), (7, 5)])
@pytest.mark.parametrize('as_probability', [True, False])
def test_constant_priors_stay_constant(grid, as_probability):
    constant = resample_prior(torch.full((3, 2), -1.7), grid, as_probability)
    torch.testing.assert_close(constant, torch.full(grid, -1.7))


@pytest.mark.parametrize('as_probability', [True, False])
def test_priors_of_one_grid_are_the_same(as_probability):
    values = 20 * torch.randn(3, 2)
    resampled = resample_prior(values, (3, 2), as_probability)
    assert torch.equal(resampled, values)
    assert resampled.data_ptr() != values.data_ptr()


def test_half_as_many_regions_keep_the_mean_probability():
    shares = torch.tensor([0.1, 0.9]).logit().repeat_interleave(4).repeat(4, 1)  # flat on both sides of an edge
    resampled = resample_prior(shares, (2, 4), True).sigmoid()
    assert resampled.mean().item() == pytest.approx(0.5)
    torch.testing.assert_close(resampled[:, 0], torch.full((2,), 0.1), rtol=0, atol=0.01)
    assert resample_prior(torch.tensor([[0.01, 0.5]]).logit(), (1, 1), True).sigmoid().item() == pytest.approx(0.255)
    assert resample_prior(torch.tensor([[1.0, 100.0]]).log(), (1, 1), False).exp().item() == pytest.approx(10)


def test_extreme_priors_stay_finite():
    assert resample_prior(torch.tensor([[200.0, 200.0]]), (3, 3), True).isfinite().all()


@pytest.mark.parametrize(('source', 'missing'), [(True, 'target'), (False, 'source')])
def test_priors_of_one_side_are_left(make_segmentor, source, missing):
    _, report = transfer_gate(make_segmentor(gate_loss=source), make_segmentor(gate_loss=not source))
    assert report['left'] == [f'gate_loss.{name}: the {missing} has none' for name in PRIOR_NAMES]


# Refusals


@pytest.mark.parametrize(
    ('target', 'message'),
    [
        (dict(patch_size=8), 'patch_size: wanted 8, got 16.'),
        (
            dict(patch_size=32, coarse_patch_size=64, img_size=(128, 192)),
            'patch_size: wanted 32, got 16; coarse_patch_size: wanted 64, got 32.',
        ),
        (dict(gate=dict(type='ScaleGate', sample_size=8)), 'sample_size: wanted 8, got 16.'),
        (dict(gate=dict(type='ScaleGate', hidden_dims=32)), 'hidden_dims: wanted 32, got 64.'),
        (dict(pixels='raw'), 'pixels: wanted raw, got both.'),
    ],
)
def test_other_layouts(make_segmentor, target, message):
    with pytest.raises(ValueError, match=f"^the source's gate does not fit the target: {message}$"):
        transfer_gate(make_segmentor(), make_segmentor(**target))


def test_models_without_a_learned_gate(make_segmentor):
    model, without = make_segmentor(), make_segmentor()
    without.backbone.gate = MODELS.build(dict(type='RandomGate'))
    message = 'the {} has no gate that can move: wanted a ScaleGate, got RandomGate.'
    with pytest.raises(ValueError, match=message.format('source')):
        load_gate(without, model.state_dict())
    with pytest.raises(ValueError, match=message.format('source')):
        transfer_gate(without, model)
    with pytest.raises(ValueError, match=message.format('target')):
        transfer_gate(model, without)
    shared = make_segmentor(gate=dict(type='SharedScaleGate', sample_size=8), patch_sizes=(8, 16, 32))
    with pytest.raises(ValueError, match='has no gate that can move: .*, got SharedScaleGate'):
        transfer_gate(shared, shared)


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (
            lambda key: None if '.gate.' in key else key,
            "no gate: wanted weights below 'backbone.gate.', got backbone.cls",
        ),
        (
            lambda key: None if 'gate.layers.2' in key else key,
            '2 of 10 weights are missing; wanted backbone.gate.layers.2',
        ),
        (
            lambda key: None if 'mean_logits' in key else key,
            '1 of 10 weights are missing; wanted gate_loss.mean_logits',
        ),
        (lambda key: key.replace('cls_token', 'gate.extra'), 'the source.s config: unexpected backbone.gate.extra'),
    ],
)
def test_checkpoints_that_do_not_fit(make_segmentor, edit, message):
    weights = {edit(key): tensor for key, tensor in make_segmentor().state_dict().items() if edit(key)}
    with pytest.raises(ValueError, match=message):
        load_gate(make_segmentor(), weights)


def test_checkpoint_of_another_image_size(make_segmentor):
    weights = make_segmentor(img_size=(96, 96)).state_dict()
    model = make_segmentor()
    load_gate(model, weights)
    for name in ('gate.layers.0.weight', 'gate.layers.6.bias'):
        assert torch.equal(model.backbone.state_dict()[name], weights[f'backbone.{name}'])
    wanted = resample_prior(weights['gate_loss.mean_logits'], (2, 3), as_probability=True)
    assert torch.equal(model.gate_loss.mean_logits, wanted)
    wanted = resample_prior(weights['gate_loss.log_temperatures'], (2, 3), as_probability=False)
    assert torch.equal(model.gate_loss.log_temperatures, wanted)


def test_load_gate_takes_the_gate_alone(make_segmentor):
    source, model = make_segmentor(seed=1), make_segmentor()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    load_gate(model, {f'module.{key}': tensor for key, tensor in source.state_dict().items()})
    for key, tensor in model.state_dict().items():
        wanted = source.state_dict() if key.startswith(('backbone.gate.', 'gate_loss.')) else before
        assert torch.equal(tensor, wanted[key])


# Into a model


def test_into_a_segmentor_of_another_size(make_segmentor, make_classifier, tmp_path):
    source = make_classifier()
    frozen = dict(type='ScaleGate', frozen=True)
    target = make_segmentor(arch=dict(embed_dims=48, num_layers=1), img_size=(128, 160), gate=frozen)
    moved, _ = transfer_gate(source, target)
    backbone = {key: tensor + 1 for key, tensor in target.backbone.state_dict().items()}  # with another gate
    torch.save(dict(state_dict=moved), tmp_path / 'gate.pth')
    torch.save(dict(state_dict=backbone), tmp_path / 'backbone.pth')
    target.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'gate.pth'))
    target.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'backbone.pth'))
    target.init_weights()
    assert torch.equal(target.backbone.pos_embed, backbone['pos_embed'])
    images = photos(128, 160)
    torch.testing.assert_close(logits(target, images), logits(source, images))
    assert target.gate_loss.mean_logits.shape == (4, 5)
    assert not target.backbone.gate.learnable
    assert torch.equal(target.gate_loss.mean_logits, moved['gate_loss.mean_logits'])


@pytest.mark.parametrize('with_gate', [False, True])
@pytest.mark.parametrize('within', ['backbone', 'segmentor'])
def test_gate_and_backbone_from_two_files(make_segmentor, make_msvit, make_classifier, tmp_path, within, with_gate):
    classifier, other = make_classifier(), make_segmentor(seed=2).backbone.state_dict()
    weights = {key: tensor for key, tensor in other.items() if with_gate or not key.startswith('gate.')}
    torch.save(dict(state_dict=classifier.state_dict()), tmp_path / 'classifier.pth')
    torch.save(dict(state_dict=weights), tmp_path / 'backbone.pth')
    words = dict(
        gate=dict(
            type='ScaleGate',
            frozen=True,
            init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'classifier.pth'), prefix='backbone.gate'),
        ),
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'backbone.pth')),
    )
    model = make_msvit(**words) if within == 'backbone' else make_segmentor(**words)
    backbone = model if within == 'backbone' else model.backbone
    model.init_weights()
    gate = {f'gate.{key}': tensor for key, tensor in classifier.backbone.gate.state_dict().items()}
    state = backbone.state_dict()
    assert (weights | gate).keys() == state.keys()
    assert all(torch.equal(tensor, (weights | gate)[key]) for key, tensor in state.items())

    torch.nn.init.zeros_(backbone.gate.layers[-1].weight)
    model.init_weights()  # a second time it leaves everything, as mmengine does
    assert not backbone.gate.layers[-1].weight.any()


def test_the_backbones_file_fills_a_gate_without_its_own(make_segmentor, make_msvit, tmp_path):
    weights = make_segmentor(seed=2).backbone.state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'backbone.pth')
    model = make_msvit(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'backbone.pth')))
    model.init_weights()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())


# Scale maps


def test_one_gate_at_one_size_agrees_with_itself(make_segmentor):
    model = make_segmentor(gate=dict(type='ScaleGate', initial_ratio=0.5))
    torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)
    numbers = compare_scale_maps(model, model, list(photos()))
    assert numbers['num_images'] == 4
    assert numbers['agreement'] == 1
    assert 0 < numbers['source_coarse_ratio'] == numbers['target_coarse_ratio'] < 1
    p = numbers['source_coarse_ratio']
    assert numbers['agreement_by_chance'] == pytest.approx(p * p + (1 - p) ** 2)


def test_scale_maps_of_two_sizes_are_compared_on_the_finer_grid(make_segmentor):
    source, target = make_segmentor(), make_segmentor(img_size=(128, 192))
    source.backbone.gate.forward = lambda images: images.new_tensor([[[1.0, -1, -1], [-1, -1, -1]]])
    target.backbone.gate.forward = lambda images: torch.cat([-torch.ones(1, 3, 6), torch.ones(1, 1, 6)], dim=1)
    numbers = compare_scale_maps(source, target, [torch.zeros(3, 50, 70, dtype=torch.uint8)])
    assert numbers['source_coarse_ratio'] == pytest.approx(1 / 6)
    assert numbers['target_coarse_ratio'] == pytest.approx(1 / 4)
    assert numbers['agreement'] == pytest.approx(14 / 24)
