"""The head in token space: it is mmseg's where all is fine, agrees over the executions, and teaches the gate."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from msvit_mm.evaluation import count_parts
from msvit_mm.ops.gating import straight_through
from msvit_mm.ops.macs import count_macs
from msvit_mm.ops.scales import by_scale
from msvit_mm.ops.tiling import cell_tokens, per_scale, reached_nodes

HEAD = dict(in_channels=32, channels=24, embed_dims=24, num_layers=2, num_heads=3, num_classes=5)
SIZE = (70, 90)
SIDES = (8, 16, 32)
TWO = dict(detail=dict(patch_size=16, hidden_dims=8))
THREE = dict(backbone=dict(patch_sizes=SIDES), detail=dict(patch_sizes=SIDES, hidden_dims=8))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def random_images(batch=3):
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def make_head(perturb):
    """Build the head, or mmseg's, with the same weights, in evaluation mode."""

    def make(kind='MixedScaleMaskTransformerHead', **kwargs):
        torch.manual_seed(0)
        return perturb(MODELS.build(dict(type=kind, _scope_='mmseg', **HEAD | kwargs))).double().eval()

    return make


@pytest.fixture
def make_segmentor(tiny_arch, perturb):
    def make(gate=None, head='MixedScaleMaskTransformerHead', backbone=None, detail=None, **kwargs):
        config = dict(
            type='GatedEncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor'),
            backbone=dict(
                type='MSViT',
                arch=tiny_arch,
                img_size=SIZE,
                out_type='tokens',
                gate=gate or dict(type='ScaleGate', initial_ratio=0.5),
                **backbone or {},
            ),
            decode_head=dict(type=head, **HEAD, **({} if detail is None else dict(detail=detail))),
            test_cfg=dict(mode='whole'),
        )
        torch.manual_seed(0)
        return perturb(MODELS.build(ConfigDict(config | kwargs))).double().eval()

    return make


def step(model, images, weights, seed=3):
    """Scores, and the gradients of their weighted sum for the gate values and all parameters."""
    model.train()
    torch.manual_seed(seed)
    features, gate = model.backbone.forward_gated(images)
    torch.manual_seed(seed)  # so that the head's stochastic depth does not depend on what the backbone has drawn
    scores = model.decode_head(features)
    parameters = dict(model.named_parameters())
    loss = ((scores + scores.square()) * weights).sum()
    values = per_scale(gate.gate_values)
    gradients = torch.autograd.grad(loss, [*values, *parameters.values()], allow_unused=True)
    names = ['gate values', *(f'gate values {i}' for i in range(1, len(values)))]
    return scores.detach(), dict(zip([*names, *parameters], gradients, strict=True)), gate


@pytest.mark.parametrize('options', [dict(), dict(qkv_bias=False, num_fcs=3, in_index=0)], ids=str)
@pytest.mark.parametrize('training', [False, True])
def test_all_fine_is_mmsegs_head(make_head, make_msvit, options, training):
    options = options | dict(drop_path_rate=0.0)
    ours, theirs = make_head(**options).train(training), make_head('SegmenterMaskTransformerHead', **options)
    theirs.load_state_dict(ours.state_dict())
    backbone = make_msvit(gate=dict(type='FixedGate', scale='fine'), out_type='tokens', out_indices=[0, 1]).double()
    images = random_images()
    tokens = backbone(images)
    backbone.out_type = 'featmap'
    maps = backbone(images)
    expected = theirs.train(training)(maps)
    assert expected.shape == (3, 5, 5, 6)
    close(ours(tokens), expected)
    close(ours(maps), expected)


def test_an_image_alone_has_the_scores_that_it_has_in_a_batch(make_head, make_msvit, random_decisions):
    head, backbone = make_head(), make_msvit(out_type='tokens').double()
    images, decisions = random_images(), random_decisions(3, *SIZE)
    scores = head(backbone(images, decisions))
    for i in range(3):
        close(head(backbone(images[i : i + 1], decisions[i : i + 1])), scores[i : i + 1])


def test_tokens_of_every_execution_have_the_same_scores(make_head, make_msvit, random_decisions):
    head, images, decisions = make_head(), random_images(), random_decisions(3, *SIZE)
    scores = [
        head(make_msvit(out_type='tokens', test_execution=execution, with_cls_token=cls).double()(images, decisions))
        for cls in (True, False)
        for execution in ('masked', 'padded', 'packed')
    ]
    for i in (1, 2):
        close(scores[i], scores[0])
        close(scores[3 + i], scores[3])


@pytest.mark.parametrize('scales', [TWO, THREE], ids=['two', 'three'])
def test_counterfactuals_of_all_regions_are_the_masked_reference(make_segmentor, scales):
    images, results = random_images(), []
    weights = torch.randn(3, 5, *((9, 12) if scales is THREE else (5, 6)), dtype=torch.float64)
    for execution in ('masked', 'counterfactual'):
        words = scales.get('backbone', {}) | dict(train_execution=execution, counterfactual_share=1.0)
        results.append(step(make_segmentor(**scales | dict(backbone=words)), images, weights))
    (scores, gradients, gate), others = results
    assert all(0 < x.mean() < 1 for x in per_scale(gate.decisions))
    for i, reached in enumerate(per_scale(reached_nodes(gate.decisions, gate.sides))):
        gradient = gradients['gate values' + (f' {i}' if i else '')]
        assert torch.equal(gradient != 0, reached > 0)  # within a node that stays whole nothing would change
    close(others[0], scores)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    close(others[1], gradients)


def test_the_gate_feels_the_contrast_of_scores(make_segmentor):
    """A plain decoder on all candidates, in which only active ones are keys, mixed by straight-through decisions."""
    model = make_segmentor(backbone=dict(train_execution='masked', out_indices=[-1]))
    head, images = model.decode_head, random_images(1)
    weights = torch.randn(1, 5, 5, 6, dtype=torch.float64)
    for layer in head.layers:
        layer.eval()
    head.drop_path_rates = [0.0, 0.0]
    scores, gradients, gate = step(model, images, weights)

    torch.manual_seed(3)
    tokens, others, layout, *_ = model.backbone.forward_gated(images)[0][0]
    table = (layout.active.unpack(tokens) + layout.counterfactual.unpack(others))[0, 1:].detach()
    active = (layout.active.unpack(torch.ones_like(tokens))[0, 1:, 0] > 0).tolist()
    keys = [*(i for i, chosen in enumerate(active) if chosen), *range(len(table), len(table) + 5)]
    x = torch.cat([head.dec_proj(table), head.cls_emb[0]])
    for layer in head.layers:
        normed = layer.norm1(x).unsqueeze(1)  # (N, C) -> (N, 1, C), as torch's module wants it
        attended, _ = layer.attn.attn(normed, normed[keys], normed[keys])
        x = x + attended.squeeze(1)
        x = layer.ffn(layer.norm2(x), identity=x)
    x = head.decoder_norm(x)
    patches, classes = (
        torch.nn.functional.normalize(y, dim=1) for y in (head.patch_proj(x[:-5]), head.classes_proj(x[-5:]))
    )
    table = head.mask_norm(patches @ classes.T).unflatten(0, (9, 5)).detach()  # 9 regions of 1 + 4 candidates
    values = gate.gate_values.detach().requires_grad_()
    mix = straight_through(values)[0]
    expected = torch.zeros_like(scores)
    for y in range(5):
        for x in range(6):
            coarse, fine = table[y // 2 * 3 + x // 2, [0, 1 + y % 2 * 2 + x % 2]]
            chosen = mix[y // 2, x // 2]
            expected[0, :, y, x] = chosen * coarse + (1 - chosen) * fine
    close(scores, expected.detach())
    (gradient,) = torch.autograd.grad(((expected + expected.square()) * weights).sum(), values)
    close(gradients['gate values'], gradient)


@pytest.mark.parametrize('execution', ['masked', 'trimmed', 'counterfactual', 'packed'])
def test_bfloat16_autocast_keeps_the_gradients(make_segmentor, execution):
    model = make_segmentor(backbone=dict(train_execution=execution)).float()
    images, weights = random_images().float(), torch.randn(3, 5, 5, 6) / 100
    _, expected, _ = step(model, images, weights)
    with torch.autocast('cpu', torch.bfloat16):
        _, gradients, _ = step(model, images, weights)
    for name, gradient in gradients.items():
        assert (gradient is None) == (expected[name] is None)
        if gradient is not None and gradient.ndim == 2:  # the sums that are gradients of biases may cancel
            assert (gradient - expected[name]).norm() < 0.3 * expected[name].norm(), name


def test_stochastic_depth_drops_the_branches_of_whole_images(make_head):
    head = make_head(drop_path_rate=0.5).train()
    maps = torch.randn(1, 32, 3, 4, dtype=torch.float64).expand(40, -1, -1, -1)
    scores = head([maps])
    distinct = torch.unique(scores.flatten(1).mul(1e6).round(), dim=0)
    assert len(distinct) == 2  # the second layer drops its feed-forward branch or keeps it; the first drops none
    close(head.eval()([maps])[0], make_head(drop_path_rate=0.0)([maps])[0])


@pytest.mark.parametrize('scales', [TWO, THREE], ids=['two', 'three'])
def test_detail_begins_as_zero_and_is_of_coarse_nodes(make_msvit, perturb, scales):
    """Of each scale by its own weights; where all is fine there is none. Weights of two scales start three."""
    words = dict(type='MixedScaleMaskTransformerHead', **HEAD)
    own, plain = MODELS.build(words | dict(detail=scales['detail'])), MODELS.build(words)
    own, plain = own.double().eval(), plain.double().eval()
    plain.load_state_dict(own.state_dict(), strict=False)
    backbone = make_msvit(out_type='tokens', **scales.get('backbone', {})).double()
    with torch.no_grad():
        mixed, fine = (backbone(random_images(), x) for x in (None, backbone.dense_decisions(random_images())))
        assert torch.equal(own(mixed), plain(mixed))
        layout = mixed[0].layout
        slot = cell_tokens(layout.decisions, layout.tiling) % layout.tiling.slots
        scale = sum((slot >= x.first).long() for x in layout.tiling.scales) - 1
        for i, detail in enumerate(by_scale(own.detail)):
            assert (scale == i).any()
            perturb(detail)
            assert torch.equal((own(mixed) - plain(mixed)).abs().amax(1) > 1e-9, scale <= i)
        assert torch.equal(own(fine), plain(fine))
    three = MODELS.build(words | dict(detail=THREE['detail'])).double()
    missing, unexpected = three.load_state_dict(own.state_dict(), strict=False)
    assert not missing and not unexpected
    assert torch.equal(three.detail[1].pixels.weight, by_scale(own.detail)[-1].pixels.weight) == (scales is THREE)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(detail=dict(hidden_dims=8)), r"detail: wanted the backbone's patch_size, .* got .*hidden_dims"),
        (THREE | TWO, r'detail: wanted that of 2 patch sizes, got patch sizes \(8, 16, 32\)'),
    ],
)
def test_detail_of_other_scales(make_segmentor, words, message):
    with pytest.raises(ValueError, match=message):
        make_segmentor(**words).predict(random_images())


@pytest.mark.parametrize(('mode', 'scales'), [('whole', TWO), ('slide', THREE)])
def test_cost_and_prediction(make_segmentor, mode, scales):
    """The closed form is what is dispatched for each image, windows and their tokens summed."""
    test_cfg = dict(mode=mode, crop_size=(48, 64), stride=(32, 48))
    model = make_segmentor(gate=dict(type='ScaleGate', initial_ratio=0.5), test_cfg=test_cfg, **scales).float()
    images = random_images(3).float()
    with torch.no_grad():
        samples = model.predict(images)
        assert len({sample.num_tokens for sample in samples}) > 1
        for i, sample in enumerate(samples):
            image = images[i : i + 1]
            assert count_macs(model.predict, image) / 1e9 == pytest.approx(sample.gmacs, rel=1e-9)
            assert sample.pred_sem_seg.shape == SIZE
            (alone,) = model.predict(image)
            torch.testing.assert_close(alone.seg_logits.data, sample.seg_logits.data, rtol=1e-4, atol=1e-4)
            counts, dense = count_parts(model, dict(inputs=image, data_samples=None))
            assert counts['whole'] == pytest.approx(sample.gmacs)
            assert counts['decoder'] < dense['decoder']
        all_fine = make_segmentor(gate=dict(type='FixedGate', scale='fine'), test_cfg=test_cfg, **scales).float()
        (sample,) = all_fine.predict(images[:1])
        assert dense['decoder'] == pytest.approx(sample.gmacs - sample.backbone_gmacs)


@pytest.mark.parametrize('scales', [{}, THREE], ids=['plain', 'three'])
def test_every_parameter_learns(make_segmentor, scales):
    model = make_segmentor(gate_loss=dict(type='BatchShapingLoss', coarse_ratio=0.5), **scales).train()
    labels = torch.randint(5, (3, 1, *SIZE))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    model.parse_losses(model.loss(random_images(), samples))[0].backward()
    for name, parameter in model.named_parameters():
        if not name.endswith('mean_logits'):  # both distances may balance at the start
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


NECK = dict(type='MultiLevelNeck', in_channels=[24], out_channels=24, scales=[1])


@pytest.mark.parametrize(
    ('options', 'got'),
    [
        (dict(head='SegmenterMaskTransformerHead'), 'SegmenterMaskTransformerHead'),
        (dict(neck=NECK), 'MultiLevelNeck, MixedScaleMaskTransformerHead'),
    ],
    ids=['head', 'neck'],
)
def test_other_parts_cannot_take_tokens(make_segmentor, options, got):
    with pytest.raises(ValueError, match=f"out_type='tokens' needs one head .* MixedScaleMask.* no neck, got {got}$"):
        make_segmentor(**options)
