"""The static form computes what the backbone computes, with shapes that no value changes."""

import pytest
import torch
from mmengine.config import ConfigDict
from torch.fx import symbolic_trace

from msvit_mm.backbones.static import rank
from msvit_mm.ops.macs import count_macs
from msvit_mm.ops.tiling import per_scale

SIZE = (96, 128)  # 12 regions, 48 cells
PARTS = dict(coarse_embedding='own', detail=dict(hidden_dims=8, levels=(0, 1)))
THREE = dict(patch_sizes=(8, 16, 32), gate=dict(type='ScaleGate', initial_ratio=0.5, sample_size=8))


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def run(model, images, budget):
    with model.configured(token_budget=budget):
        return model.forward_gated(images)


@pytest.mark.parametrize('batch', [1, 4])
@pytest.mark.parametrize('budget', [12, 14, 24, 31.5, 48])
@pytest.mark.parametrize(
    'words',
    [
        dict(out_indices=[0, 1]),
        dict(out_indices=[0, 1], **PARTS),
        dict(with_cls_token=False),
        dict(num_registers=2),
        dict(num_registers=2, rope=dict(temperature=100.0)),
        dict(pre_norm=True, final_norm=False),
        dict(coarse_patch_size=16, patch_size=8, gate=dict(type='ScaleGate', initial_ratio=0.5, sample_size=8)),
        dict(coarse_patch_size=48, img_size=(96, 144), gate=dict(type='ScaleGate', initial_ratio=0.5)),
        dict(out_type='cls_token', train_execution='packed'),
        dict(coarse_embedding='own'),
        THREE,
        THREE | dict(out_indices=[0, 1], **PARTS),
        THREE | dict(num_registers=2, rope=dict(temperature=100.0)),
    ],
    ids=str,
)
def test_features_are_the_backbones(make_msvit, real_images, words, budget, batch):
    model = make_msvit(**words)
    images = real_images('scenes')[:batch]
    if model.coarse_patch_size == 48:
        images = torch.nn.functional.interpolate(images, (96, 144))
    tiling = model.tile(tuple(images.shape[-2:]))
    budget = tiling.num_regions + (budget - 12) / 36 * (tiling.num_cells - tiling.num_regions)
    wanted, choices = run(model, images, budget)
    static = model.static(tuple(images.shape[-2:]), budget)
    for got, features in zip(static(images), wanted, strict=True):
        torch.testing.assert_close(got, features, atol=1e-5, rtol=1e-5)
    assert choices.num_tokens.eq(static.num_tokens).all()


@pytest.mark.parametrize('batch', [1, 4])
@pytest.mark.parametrize('size', [(96, 128), (70, 90)])
@pytest.mark.parametrize(
    'words',
    [
        dict(),
        dict(coarse_embedding='own'),
        dict(num_registers=2, rope=dict()),
        THREE | PARTS | dict(gate=dict(type='EdgeGate', coarse_ratio=0.5)),
    ],
    ids=str,
)
def test_masked_needs_no_budget(make_msvit, real_images, batch, size, words):
    model = make_msvit(out_indices=[0, 1], **words)
    images = real_images('scenes')[:batch, :, : size[0], : size[1]]
    wanted, choices = run(model, images, None)
    assert 0 < per_scale(choices.decisions)[-1].mean() < 1
    for got, features in zip(model.static(size)(images), wanted, strict=True):
        torch.testing.assert_close(got, features, atol=1e-5, rtol=1e-5)


def test_ends_of_the_ladder(make_msvit, real_images):
    """No region fine is all coarse, every region fine is the dense host."""
    model, images = make_msvit(), real_images('scenes')[:2]
    coarse = model(images, torch.ones(2, 3, 4))
    torch.testing.assert_close(model.static(SIZE, 12)(images), coarse, atol=1e-5, rtol=1e-5)
    dense = model.dense_twin(SIZE)
    dense.eval()
    torch.testing.assert_close(model.static(SIZE, 48)(images), dense(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('logits', [[0.0] * 12, [1.0] * 6 + [-1.0] * 6, [0.5, -0.5] * 6])
def test_equal_logits_go_in_raster_order(make_msvit, real_images, logits):
    model, images = make_msvit(gate=dict(type='StaticGate', grid_size=(3, 4))), real_images('scenes')[:2]
    model.gate.logits.copy_(torch.tensor(logits).view(3, 4))
    wanted, choices = run(model, images, 24)
    first = torch.tensor(logits).argsort(stable=True)[:4]
    assert choices.decisions.flatten(1).eq(0).nonzero()[:4, 1].tolist() == sorted(first.tolist())
    torch.testing.assert_close(model.static(SIZE, 24)(images), wanted, atol=1e-5, rtol=1e-5)


def test_ranks_are_those_of_a_stable_sort():
    values = torch.randint(5, (3, 40)).float()
    assert torch.equal(rank(values), values.argsort(dim=1, stable=True).argsort(dim=1))


@pytest.mark.parametrize('budget', [12, 30, 48])
@pytest.mark.parametrize('words', [dict(), dict(with_cls_token=False), dict(coarse_embedding='own')], ids=str)
def test_multiply_adds_are_those_of_the_costs(make_msvit, real_images, budget, words):
    model, images = make_msvit(**words), real_images('scenes')[:2]
    _, choices = run(model, images, budget)
    costs = model.costs_of(choices.decisions, SIZE)
    assert count_macs(model.static(SIZE, budget), images) == costs.total.sum()


def test_multiply_adds_of_a_head_with_detail(make_segmentor, real_images):
    model, images = make_segmentor('detailed tokens'), real_images('scenes')[:2]
    with model.backbone.configured(token_budget=30):
        _, choices = model.backbone.forward_gated(images)
    head = model.decode_head.count_macs(choices.num_tokens, model.backbone(images, choices.decisions)[0].layout)
    counted = count_macs(model.static(SIZE, 30), images) - count_macs(model.backbone.static(SIZE, 30), images)
    assert counted == head.sum()


def test_detail_of_other_scales(make_segmentor, real_images):
    model = make_segmentor('detailed tokens', **THREE)
    model.decode_head.detail = model.decode_head.detail[0]
    static = model.static(SIZE, 30)
    with pytest.raises(ValueError, match=r'detail: wanted that of 2 patch sizes, got patch sizes \(8, 16, 32\)'):
        static(real_images('scenes')[:1])


def test_a_copy(make_msvit, real_images):
    """Later training of the backbone does not change it, nor does it change the mode of the backbone."""
    model, images = make_msvit().train(), real_images('scenes')[:1]
    static = model.static(SIZE, 24)
    before = static(images)
    for parameter in model.parameters():
        parameter.add_(1)
    assert model.training and model.layers[0].training
    assert torch.equal(static(images)[0], before[0])


@pytest.mark.parametrize(
    ('kind', 'words'),
    [('maps', {}), ('tokens', {}), ('detailed tokens', {}), ('detailed tokens', THREE)],
    ids=['maps', 'tokens', 'detailed tokens', 'detailed tokens of three scales'],
)
@pytest.mark.parametrize('batch', [1, 4])
@pytest.mark.parametrize('budget', [12, 30, 48, None])
def test_whole_segmentors(make_segmentor, real_images, kind, words, batch, budget):
    model, images = make_segmentor(kind, **words), real_images('scenes')[:batch]
    with model.backbone.configured(token_budget=budget):
        wanted = model.inference(images, [dict(img_shape=SIZE)] * batch)
    static = model.static(SIZE, budget)
    torch.testing.assert_close(static(images), wanted, atol=1e-4, rtol=1e-4)
    assert {name.split('.')[1] for name in static.state_dict()} <= {'backbone', 'neck', 'decode_head'}


@pytest.mark.filterwarnings('ignore')  # of the tracer, about sizes that are fixed here
def test_a_network_that_others_can_trace(make_msvit, real_images):
    """The static form works on the meta device and under TorchScript's tracer; torch.fx is refused."""
    static, images = make_msvit().static(SIZE, 24), real_images('scenes')[:1]
    traced = torch.jit.trace(static, images, check_trace=False)
    torch.testing.assert_close(traced(images), static(images))
    with pytest.raises(ValueError, match='wanted a tensor, got a Proxy of torch.fx; torch.export records this network'):
        symbolic_trace(static)
    (features,) = static.to('meta')(images.to('meta'))
    assert features.shape == (1, 32, 6, 8)


def test_the_backbone_itself_is_refused(make_msvit, real_images):
    model, images = make_msvit(), real_images('scenes')[:1]
    hint = 'export static\\(image_size, token_budget\\) of the backbone instead'
    records = {
        'torch.jit.trace': lambda: torch.jit.trace(model, images),
        'the meta device': lambda: model(images.to('meta')),
    }
    if hasattr(torch.compiler, 'is_exporting'):  # an older torch ends in words of its own
        records['torch.export'] = lambda: torch.export.export(model, (images,))
    for name, record in records.items():
        with pytest.raises(ValueError, match=f'images: wanted a tensor with values, got one of {name}; {hint}'):
            record()
    with pytest.raises(ValueError, match=f'images: wanted a tensor, got a Proxy of torch.fx; {hint}'):
        symbolic_trace(model)
    for scripted in (model, torch.nn.Sequential(model)):
        with pytest.raises(ValueError, match=f'torch.jit.script: wanted a network without a gate, got MSViT; {hint}'):
            torch.jit.script(scripted)


@pytest.mark.parametrize(
    ('words', 'size', 'budget', 'message'),
    [
        (dict(), (96, 120), 24, r'image size of multiples of 32 pixels, .*, got \(96, 120\)'),
        (dict(), SIZE, 11, 'token_budget: wanted at least 12 tokens .*, got 11'),
        (
            dict(attention_scope='region', with_cls_token=False),
            SIZE,
            24,
            "wanted attention_scope='image', got 'region'",
        ),
    ],
    ids=['size', 'few', 'scope'],
)
def test_what_has_no_static_form(make_msvit, words, size, budget, message):
    with pytest.raises(ValueError, match=message):
        make_msvit(**words).static(size, budget)


def test_images_of_another_size(make_msvit):
    with pytest.raises(ValueError, match=r'images: wanted shape \(B, 3, 96, 128\), got \(1, 3, 64, 96\)'):
        make_msvit().static(SIZE, 24)(torch.zeros(1, 3, 64, 96))


def test_windows_are_refused(make_segmentor):
    model = make_segmentor()
    model.test_cfg = ConfigDict(mode='slide', crop_size=(64, 96), stride=(32, 32))
    with pytest.raises(ValueError, match=r'wanted the size of one sliding window, \(64, 96\), got \(96, 128\)'):
        model.static(SIZE, 24)
    assert model.static((64, 96), 12)(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 64, 96)
