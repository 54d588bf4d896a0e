import math

import pytest
import torch
from mmengine.registry import MODELS

from msvit_mm.backbones import MSViT
from msvit_mm.gates import (
    EdgeGate,
    FixedGate,
    RandomGate,
    RegionGate,
    ScaleGate,
    StaticGate,
    build_gate,
    build_region_gate,
    registered,
)
from msvit_mm.gates.region import rank_logits
from msvit_mm.ops.gating import relaxed_gate_sample, threshold
from msvit_mm.ops.macs import count_macs
from msvit_mm.ops.tiling import Tiling

GATES = [name for name, gate in registered(RegionGate).items() if not gate.nested]  # which decide one scale


def build(name, **kwargs):
    return MODELS.build(dict(type=name, coarse_patch_size=32, **kwargs))


def test_all_gates_are_found():
    assert set(GATES) >= {'ScaleGate', 'StaticGate', 'RandomGate', 'FixedGate', 'EdgeGate'}
    assert all(issubclass(cls, RegionGate) for cls in registered(RegionGate).values())
    assert not {'RouteGate', 'MSViT'} & set(GATES)


@pytest.mark.parametrize(('height', 'width'), [(64, 96), (70, 90), (1, 33)])
@pytest.mark.parametrize('name', GATES)
def test_interface(name, height, width):
    gate = build(name)
    images = torch.rand(2, 3, height, width)
    before = images.clone()
    gate_logits = gate(images)
    assert gate_logits.shape == (2, *gate.num_regions(images)) == (2, -(-height // 32), -(-width // 32))
    assert gate_logits.dtype == images.dtype
    assert gate_logits.isfinite().all()
    assert (gate_logits != 0).all()
    assert torch.equal(images, before)
    assert count_macs(gate, images) == 2 * gate.macs(Tiling(height, width, (16, 32)))
    assert gate.macs(Tiling(height, width, (16, 32))) == gate_logits[0].numel() * gate.macs_per_region()


@pytest.mark.parametrize('name', GATES)
def test_learnable_gates_have_a_gradient_and_the_others_no_parameters(name):
    gate = build(name)
    assert gate.learnable == (name in ('ContextGate', 'ScaleGate', 'StaticGate')) == bool(list(gate.parameters()))
    assert gate(torch.rand(2, 3, 64, 96)).requires_grad == gate.learnable


def test_base_gate_has_no_rule():
    with pytest.raises(NotImplementedError):
        RegionGate()(torch.rand(1, 3, 64, 96))


# ScaleGate


@pytest.mark.parametrize('pixels', ['raw', 'normalized', 'both'])
def test_scale_gate_sees_all_of_its_region_and_nothing_else(pixels, perturb):
    gate = perturb(ScaleGate(pixels=pixels))
    images = torch.rand(2, 3, 70, 90, requires_grad=True)
    gate(images)[1, 0, 2].backward()
    seen = images.grad.abs().sum(1) > 0
    assert seen[1, :32, 64:].float().mean() > 0.99
    assert seen.sum() == seen[1, :32, 64:].sum()


@pytest.mark.parametrize(('pixels', 'invariant'), [('normalized', True), ('raw', False), ('both', False)])
def test_normalized_pixels_ignore_brightness_and_contrast(pixels, invariant, perturb):
    gate = perturb(ScaleGate(pixels=pixels))
    images = 10 * torch.randn(2, 3, 64, 96)  # large, so that the floor of the deviation does not count
    contrast = torch.rand(2, 1, 2, 3).add(0.5).repeat_interleave(32, 2).repeat_interleave(32, 3)
    brightness = torch.randn(2, 3, 2, 3).mul(10).repeat_interleave(32, 2).repeat_interleave(32, 3)
    difference = gate(images * contrast + brightness) - gate(images)
    assert (difference.abs().max() < 1e-3) == invariant


def test_flat_regions_are_finite_when_normalized():
    assert ScaleGate(pixels='normalized')(torch.full((1, 3, 64, 96), 7.0)).isfinite().all()


@pytest.mark.parametrize('initial_ratio', [0.1, 0.75])
def test_scale_gate_starts_at_its_ratio(initial_ratio):
    gate = ScaleGate(initial_ratio=initial_ratio)
    gate_logits = gate(torch.randn(64, 3, 128, 128))
    assert gate_logits.mean().item() == pytest.approx(math.log(initial_ratio / (1 - initial_ratio)), abs=0.25)
    decisions = threshold(relaxed_gate_sample(gate_logits))
    assert decisions.mean().item() == pytest.approx(initial_ratio, abs=0.08)


def test_scale_gate_costs_less_than_a_hundredth_of_its_backbone():
    with torch.device('meta'):
        model = MSViT(arch='deit-small', img_size=512)
    decisions = torch.ones(1, *model.grid_size)
    decisions[:, ::2, ::2] = 0  # three regions of four are coarse
    costs = model.costs_of(decisions, (512, 512))
    assert 0 < costs.gate < 0.01 * costs.total


# StaticGate


def test_static_gate_starts_at_its_ratio_and_looks_at_no_image(perturb):
    gate = StaticGate(grid_size=(2, 3), initial_ratio=0.6)
    torch.testing.assert_close(gate(torch.rand(1, 3, 64, 96)).sigmoid(), torch.full((1, 2, 3), 0.6))
    gate = perturb(gate)
    gate_logits = gate(torch.randn(2, 3, 64, 96))
    assert torch.equal(gate_logits[0], gate.logits) and torch.equal(gate_logits[1], gate.logits)
    assert len(gate.logits.unique()) == 6


@pytest.mark.parametrize(('height', 'width'), [(64, 96), (70, 90), (1, 33), (250, 410)])
def test_static_gate_resizes_its_pattern_and_all_of_it_learns(height, width):
    gate = StaticGate(grid_size=(3, 4))
    with torch.no_grad():
        gate.logits.copy_(torch.tensor([-1.0, 1.0]).repeat_interleave(2).expand(3, 4))  # left fine, right coarse
    gate_logits = gate(torch.rand(2, 3, height, width))
    half = gate_logits.shape[2] // 2
    assert (gate_logits[..., :half] < 0).all() and (gate_logits[..., -half:] > 0).all()
    gate_logits.square().sum().backward()
    assert (gate.logits.grad != 0).all()


@pytest.mark.parametrize('execution', ['masked', 'counterfactual'])
def test_static_gate_learns_from_the_task_at_every_position(execution, make_msvit):
    model = make_msvit(gate=dict(type='StaticGate', grid_size=(3, 3)), train_execution=execution).train()
    (features,), gate = model.forward_gated(torch.randn(2, 3, 70, 90))
    assert gate.gate_values.shape == (2, 3, 3)
    features.square().sum().backward()
    assert model.gate.logits.grad.isfinite().all() and (model.gate.logits.grad != 0).all()


# RandomGate


@pytest.mark.parametrize('coarse_ratio', [0, 0.25, 0.75, 1])
def test_random_gate_is_exact_in_every_image(coarse_ratio):
    decisions = RandomGate(coarse_ratio)(torch.rand(50, 3, 64, 128)) > 0
    assert (decisions.sum((1, 2)) == 8 * coarse_ratio).all()
    if 0 < coarse_ratio < 1:
        assert len(decisions.flatten(1).unique(dim=0)) > 5
        assert decisions.any(0).all() and not decisions.all(0).any()


def test_random_gate_rounds_without_bias():
    counts = (RandomGate(0.4)(torch.rand(4000, 3, 32, 96)) > 0).sum((1, 2)).float()
    assert set(counts.tolist()) == {1, 2}
    assert counts.mean().item() == pytest.approx(1.2, abs=0.04)


def test_random_gate_draws_from_its_range():
    gate = RandomGate((0.2, 0.6))
    ratios = torch.stack([(gate(torch.rand(2, 3, 320, 320)) > 0).float().mean((1, 2)) for _ in range(50)])
    assert (ratios[:, 0] - ratios[:, 1]).abs().max() <= 0.011  # the batch shares one ratio, up to a region
    assert 0.19 <= ratios.min() < 0.3
    assert 0.5 < ratios.max() <= 0.61


def test_random_gate_visits_the_extremes():
    gate = RandomGate((0.0, 1.0), extremes=1.0)
    ratios = [(gate(torch.rand(2, 3, 64, 96)) > 0).float().mean().item() for _ in range(60)]
    assert set(ratios) == {0, 1}
    assert 10 < sum(ratios) < 50


# EdgeGate


@pytest.mark.parametrize('coarse_ratio', [0, 0.25, 0.7, 1])
def test_edge_gate_is_exact_in_every_image(coarse_ratio):
    decisions = EdgeGate(coarse_ratio)(torch.rand(5, 3, 70, 90)) > 0
    assert (decisions.sum((1, 2)) == round(9 * coarse_ratio)).all()


def test_edge_gate_makes_the_textured_regions_fine():
    images = torch.zeros(2, 3, 64, 96)
    images[0, :, 8:24, 40:56] = 1  # a square in the region of row 0, column 1
    images[1, :, 40:56, 72:88] = 1
    decisions = EdgeGate(coarse_ratio=5 / 6)(images) > 0
    assert decisions[0].tolist() == [[True, False, True], [True, True, True]]
    assert decisions[1].tolist() == [[True, True, True], [True, True, False]]


@pytest.mark.parametrize(('blur', 'fine_column'), [(1, 0), (5, 2)])
def test_blur_keeps_noise_from_being_an_edge(blur, fine_column):
    images = torch.zeros(1, 3, 32, 96)
    images[..., :32] = 0.3 * torch.randn(1, 3, 32, 32)
    images[..., 16:, 64:] = 1
    decisions = EdgeGate(coarse_ratio=2 / 3, blur=blur)(images) > 0
    assert (~decisions).flatten().nonzero().item() == fine_column


# FixedGate, ranks, errors


@pytest.mark.parametrize(('scale', 'decision'), [('fine', 0), ('coarse', 1)])
def test_fixed_gate(scale, decision):
    gate_logits = FixedGate(scale)(torch.rand(2, 3, 70, 90))
    assert (threshold(gate_logits.sigmoid()) == decision).all()


@pytest.mark.parametrize('num_coarse', [0, 1, 5, 12, torch.tensor([0, 4, 12])[:, None, None]])
def test_rank_logits_choose_the_lowest_scores(num_coarse):
    scores = torch.rand(3, 3, 4)
    gate_logits = rank_logits(scores, num_coarse)
    assert (gate_logits.abs() <= 1).all() and (gate_logits != 0).all()
    assert torch.equal(gate_logits.flatten(1).argsort(1), scores.flatten(1).argsort(1, descending=True))
    assert ((gate_logits > 0).sum((1, 2)) == torch.as_tensor(num_coarse).flatten()).all()
    assert (
        (rank_logits(torch.zeros(3, 3, 4), num_coarse) > 0).sum((1, 2)) == torch.as_tensor(num_coarse).flatten()
    ).all()


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='ScaleGate', pixels='grey'), r"pixels must be one of \['both', 'normalized', 'raw'\], got 'grey'"),
        (dict(type='ScaleGate', sample_size=12), 'sample_size must divide coarse_patch_size 32, got 12'),
        (dict(type='ScaleGate', initial_ratio=1.0), r'initial_ratio must lie in \(0, 1\), got 1.0'),
        (dict(type='StaticGate', initial_ratio=0.0), r'initial_ratio must lie in \(0, 1\), got 0.0'),
        (dict(type='StaticGate', grid_size=(3, 0)), r'grid_size must be \(rows, cols\), .* got \(3, 0\)'),
        (dict(type='StaticGate', grid_size=(3, 3, 3)), r'grid_size must be \(rows, cols\), .* got \(3, 3, 3\)'),
        (dict(type='FixedGate', scale='both'), r"scale must be one of \['coarse', 'fine'\], got 'both'"),
        (dict(type='RandomGate', coarse_ratio=1.5), r'coarse_ratio must lie in \[0, 1\] .* got 1.5'),
        (dict(type='RandomGate', coarse_ratio=(0.6, 0.4)), r'got \(0.6, 0.4\)'),
        (dict(type='RandomGate', extremes=-1), r'extremes must lie in \[0, 1\], got -1'),
        (dict(type='EdgeGate', coarse_ratio=-0.1), r'coarse_ratio must lie in \[0, 1\], got -0.1'),
        (dict(type='EdgeGate', blur=4), 'blur must be a positive odd number of pixels, got 4'),
        (dict(type='EdgeGate', blur=-1), 'blur must be a positive odd number of pixels, got -1'),
    ],
    ids=str,
)
def test_errors(config, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(config)


def test_a_gate_of_another_family_is_refused():
    with pytest.raises(ValueError, match=r"one of ContextGate, .*, StaticGate, got \{'type': 'RouteGate'\}"):
        build_gate(dict(type='RouteGate'), RegionGate)
    with pytest.raises(ValueError, match=r"got \{'type': 'ScalGate'\} \(did you mean ScaleGate or"):
        build_gate(dict(type='ScalGate'), RegionGate)
    with pytest.raises(ValueError, match=r'got \{\}$'):
        build_gate({}, RegionGate)
    for config in ([dict(type='ScaleGate')], 'ScaleGate'):
        with pytest.raises(ValueError, match=r'gate must be a config whose type is one of .*ScaleGate'):
            build_region_gate(config, RegionGate, (16, 32))


def test_the_backbone_fills_words_in():
    gate = build_gate(dict(type=EdgeGate, coarse_ratio=0.5), RegionGate, coarse_patch_size=64)
    assert (gate.coarse_ratio, gate.coarse_patch_size) == (0.5, 64)


@pytest.mark.parametrize('name', ['ScaleGate', 'StaticGate'])
def test_logits_shift_together(name, perturb):
    gate, images = perturb(build(name)), torch.rand(2, 3, 70, 90)
    before = gate(images)
    gate.shift_logits(0.75)
    torch.testing.assert_close(gate(images), before + 0.75)


def test_a_rule_has_no_logits_to_shift():
    with pytest.raises(ValueError, match=r'whose logits can shift \(ScaleGate, StaticGate\), got EdgeGate'):
        EdgeGate().shift_logits(1.0)


def test_extremes_of_one_ratio_are_either():
    gate = MODELS.build(dict(type='RandomGate', coarse_ratio=0.4, extremes=1.0))
    images = torch.rand(1, 3, 64, 96)
    shares = {(gate(images) > 0).float().mean().item() for _ in range(40)}
    assert shares == {0.0, 1.0}
