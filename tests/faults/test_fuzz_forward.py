"""Forward passes over random sizes, executions, gates and numbers: features of the right size, finite, and alike."""

import random

import pytest
import torch
from mmengine.registry import MODELS

from msvit_mm.gates import ScaleGate

ARCH = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
GATES = [dict(type='ScaleGate', initial_ratio=0.5), dict(type='StaticGate', initial_ratio=0.5, grid_size=(3, 5))]
GATES += [dict(type='RandomGate'), dict(type='EdgeGate'), dict(type='FixedGate', scale='coarse')]
EXECUTIONS = ('masked', 'padded', 'packed')
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAX_PIXELS = 2**16  # of an image: reference executions take memory by the square


def draw_size(generator):
    """(height, width), each in 1..2048, small ones as often as large ones."""
    height = int(2 ** generator.uniform(0, 11))
    width = int(2 ** generator.uniform(0, 11))
    return (height, min(width, max(MAX_PIXELS // height, 1)))


@pytest.mark.parametrize('count', [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_forwards(count):
    generator = random.Random(0)
    models = [MODELS.build(dict(type='MSViT', arch=ARCH, img_size=(64, 96), gate=gate)).eval() for gate in GATES]
    for _ in range(count):
        model, dtype = generator.choice(models), generator.choice(DTYPES)
        height, width = draw_size(generator)
        images = torch.randn(generator.choice([1, 1, 2, 3]), 3, height, width, dtype=dtype)
        budget = generator.choice([None, None, 1.5, 40.5])
        tiling = model.tile((height, width))
        model.token_budget = budget and max(budget, tiling.num_regions)
        model.test_execution = generator.choice(EXECUTIONS)
        case = type(model.gate).__name__, images.shape, dtype, model.test_execution, model.token_budget
        with torch.no_grad():
            (features,), choices = model.to(dtype).forward_gated(images)
        assert features.shape == (len(images), 16, -(-height // 16), -(-width // 16)), case
        assert features.dtype == dtype and features.isfinite().all(), case
        assert choices.decisions.shape[1:] == (tiling.rows, tiling.cols), case
        costs = model.costs_of(choices.decisions, (height, width))
        assert torch.equal(costs.num_tokens[0], choices.num_tokens), case
        assert model.token_budget is None or (choices.num_tokens <= model.token_budget + 1e-6).all(), case


@pytest.mark.parametrize('dtype', DTYPES)
def test_routes_in_every_precision(dtype):
    arch = dict(embed_dims=(8, 16, 40, 64), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2))
    model = MODELS.build(dict(type='DynamicTokenRoutingTransformer', arch=arch)).to(dtype).eval()
    for execution in model.test_executions:
        model.test_execution = execution
        with torch.no_grad():
            features, choices = model.forward_gated(torch.randn(2, 3, 70, 90, dtype=dtype))
        assert all(x.dtype == dtype and x.isfinite().all() for x in features)
        assert choices.num_tokens.shape == (2,)


def test_a_budget_above_all_fine_is_all_fine():
    model = MODELS.build(dict(type='MSViT', arch=ARCH, img_size=(64, 96), token_budget=10_000)).eval()
    _, choices = model.forward_gated(torch.randn(2, 3, 40, 50))
    assert not choices.decisions.any()
    model.token_budget = 3
    with pytest.raises(ValueError, match='wanted at least 4 tokens .all regions coarse. for images of .40, 50. pixels'):
        model.forward_gated(torch.randn(2, 3, 40, 50))


@pytest.mark.parametrize('channels', [1, 4])
def test_other_channels(channels):
    images = torch.randn(1, channels, 40, 50)
    words = dict(type='MSViT', arch=ARCH, img_size=(64, 96), in_channels=channels)
    with pytest.raises(
        ValueError, match=f'ScaleGate: wanted images of 3 channels, got {channels}; StaticGate takes any'
    ):
        MODELS.build(words).eval().forward_gated(images)
    (features,), _ = MODELS.build(words | dict(gate=dict(type='StaticGate'))).eval().forward_gated(images)
    assert features.shape == (1, 16, 3, 4)


def test_gates_by_their_class():
    model = MODELS.build(dict(type='MSViT', arch=ARCH, img_size=(64, 96), gate=dict(type=ScaleGate, frozen=True)))
    assert isinstance(model.gate, ScaleGate) and not model.gate.learnable
