"""Forward passes over random sizes, networks, gates, executions and numbers: features of the right size, and finite.

In training backward passes, too. The networks are those of ``tests/conformance``, all examples of every registered
gated backbone and every gate of its family, and what these leave out.
"""

import functools
import math
import random
from collections import Counter

import pytest
import torch
from conformance.cases import Case, all_cases, all_gate_cases, gate_loss, run, tensors_of
from mmengine.registry import MODELS

from msvit_mm.backbones import DynamicTokenRoutingTransformer, MSSwin, MSViT
from msvit_mm.gates import ScaleGate

ARCH = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAX_PIXELS = dict(training=2**13, prediction=2**15)  # of an image: reference executions take memory by the square


class WordsCase(Case):
    """The example of a case with further words."""

    def __new__(cls, backbone, example, **words):
        case = super().__new__(cls, backbone, example)
        case.further = words
        return case

    def __str__(self):
        return f'{super().__str__()}, {self.further}'

    def words(self, **words):
        return super().words(**self.further | words)


LEARNT = dict(type='ScaleGate', initial_ratio=0.5)
NESTED = [dict(type='SharedScaleGate', initial_ratio=0.5)]
NESTED += [dict(type='NestedGate', gates=[LEARNT, dict(type='ContextGate', initial_ratio=0.5)])]
FURTHER = [WordsCase(MSViT, 'three scales', gate=gate) for gate in NESTED]
FURTHER += [WordsCase(MSViT, 'three scales', merge=dict(type='MutualPairs', before=(1,)))]
FURTHER += [WordsCase(MSViT, 'plain', train_ratios=(0.2, 0.9))]
FURTHER += [WordsCase(DynamicTokenRoutingTransformer, 'plain', cost_budget=0.8)]
GATES = [WordsCase(*x.case, gate=dict(type=x.gate.__name__, **x.words)) for x in all_gate_cases()]
NETWORKS = [*all_cases(), *GATES, *FURTHER]


@functools.cache
def build(index, dtype):
    return NETWORKS[index].build().to(dtype)


@functools.cache
def strides(index):
    """Pixels to a cell of each map, as an image shows them that every cell divides."""
    with build(index, torch.float32).configured(token_budget=None) as model, torch.no_grad():
        features = model(torch.randn(1, 3, 128, 256))
    assert all((128 * x.shape[3], 256 * x.shape[2]) == (256 * x.shape[2], 128 * x.shape[3]) for x in features)
    return [128 // x.shape[2] for x in features]


def right_convolutions(dtype):
    """Without oneDNN's in bfloat16, which on CPUs with AMX are wrong for maps that become one cell wide.

    Known as pytorch/pytorch#163347 and #169688.
    """
    return torch.backends.mkldnn.flags(enabled=dtype != torch.bfloat16)


def smallest_side(case):
    """Pixels below which images are refused: the last row of routes has no key, a map of Swin not one window."""
    if case.backbone is MSSwin and not case.words().get('pad_small_map'):
        return 16 * 3 + 1  # of the last map's cells a window has 4
    return 29 if case.backbone is DynamicTokenRoutingTransformer else 1


def draw_size(generator, smallest, pixels):
    """(height, width), each up to 2048 and seldom too small, small ones as often as large ones."""
    low = math.log2(max(1, 0.9 * smallest))
    height, width = (int(2 ** generator.uniform(low, 11)) for _ in range(2))
    return (height, min(width, max(pixels // height, 1)))


def check_costs(model, choices, size, case):
    """What the choices cost is what these decisions cost, and no budget is exceeded."""
    assert choices.costs.total.isfinite().all() and (choices.costs.total > 0).all(), case
    if not model.between:
        wanted = model.costs_of(choices.decisions, size)
        assert torch.equal(choices.costs.num_tokens, wanted.num_tokens), case
        torch.testing.assert_close(
            choices.costs.total.detach(), wanted.total.detach(), rtol=1e-9, atol=0, msg=str(case)
        )
    budget = getattr(model, 'token_budget', None)
    assert model.training or budget is None or (choices.num_tokens <= budget + 1e-6).all(), case


def check_gradients(model, features, choices, case):
    """A backward pass of all that a training may ask for reaches every parameter with finite numbers."""
    loss = sum(x.float().mean() for x in features) + gate_loss(choices) + choices.zero()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), (*case, name)
    model.zero_grad()


@pytest.mark.parametrize('count', [15, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_forwards(count):
    generator, seen = random.Random(0), Counter()
    for _ in range(count):
        index, dtype, training = generator.randrange(len(NETWORKS)), generator.choice(DTYPES), generator.random() < 0.5
        mode = 'training' if training else 'prediction'
        model = build(index, dtype).train(training)
        smallest = smallest_side(NETWORKS[index])
        height, width = size = draw_size(generator, smallest, MAX_PIXELS[mode])
        images = torch.randn(generator.choice([1, 1, 2, 3]), 3, height, width, dtype=dtype)
        execution = generator.choice(model.train_executions if training else model.test_executions)
        budget = generator.choice([None, None, 1.5, 40.5])
        if hasattr(model, 'token_budget'):
            model.token_budget = budget and max(budget, model.tile(size).num_regions)
        case = str(NETWORKS[index]), images.shape, dtype, mode, execution, budget
        with model.configured(execution=execution), torch.set_grad_enabled(training), right_convolutions(dtype):
            if min(size) < smallest:
                with pytest.raises(ValueError, match='^images.*(wanted|must).*, got'):
                    model.forward_gated(images)
                seen['refused, too small'] += 1
                continue
            features, choices = model.forward_gated(images)
            maps = tensors_of(features)
            assert [x.shape[2:] for x in maps] == [(-(-height // s), -(-width // s)) for s in strides(index)], case
            assert all(x.dtype == dtype and x.isfinite().all() for x in maps), case
            check_costs(model, choices, size, case)
            if training:
                check_gradients(model, maps, choices, case)
        seen[f'{type(model).__name__}, {mode}, {execution}'] += 1
    print(*(f'{name}: {number}' for name, number in sorted(seen.items())), sep='\n')
    assert seen.total() == count


@pytest.mark.parametrize('case', all_cases(), ids=str)
def test_half_precision_in_every_execution(case):
    """Features are in the precision of network and images, whatever that of the gate's values."""
    model, images = case.build().to(torch.bfloat16), torch.randn(1, 3, 56, 60, dtype=torch.bfloat16)
    for training, executions in ((False, model.test_executions), (True, model.train_executions)):
        for execution in executions:
            with right_convolutions(images.dtype):
                features, _ = run(model, images, None, execution, training)
            assert all(x.dtype == torch.bfloat16 and x.isfinite().all() for x in tensors_of(features)), execution


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
