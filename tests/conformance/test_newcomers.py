"""What a newcomer writes: a backbone, a gate, a step between the layers. Each gets its laws by registering alone."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from conformance.cases import Case, cases, close, gate_cases, gradients, random_images, run, task_loss
from conformance.test_laws import GATE_LAWS, LAWS, name_of
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from msvit_mm.backbones import Costs, GatedBackbone, GateOutput, MSViT, RegionBackbone
from msvit_mm.backbones.base import check_images
from msvit_mm.backbones.layers import Stream
from msvit_mm.gates import RegionGate, decide
from msvit_mm.ops.gating import straight_through
from msvit_mm.ops.macs import count_macs
from msvit_mm.ops.mixed_grid import MixedGrid
from msvit_mm.ops.packing import Packing
from msvit_mm.ops.tiling import active_slots, gather_patches, nodes_to_cells, pad_to_regions


class ToyBackbone(RegionBackbone, BaseModule):
    """A patch embedding and one layer per token; a coarse token sees the mean of its region's cells."""

    train_executions = test_executions = ('packed',)

    def __init__(self, img_size: tuple[int, int] = (64, 96), gate: dict | None = None) -> None:
        super().__init__()
        self.patch_size, self.coarse_patch_size = 16, 32
        grid = self.tile(img_size)
        self.grid_size = grid.rows, grid.cols
        self.embed, self.layer = nn.Conv2d(3, 8, 16, 16), nn.Linear(8, 8)
        self.gate = self.build_gate(gate or self.default_gate)

    @classmethod
    def examples(cls) -> dict[str, dict]:
        return dict(plain=dict(gate=dict(type='ScaleGate', initial_ratio=0.5)))

    def forward_gated(self, images: Tensor, decisions: Tensor | None = None) -> tuple[tuple, GateOutput]:
        check_images(images, 3)
        size = images.shape[-2], images.shape[-1]
        tiling, learning = self.tile(size), self.training and self.gate.learnable
        budget = None if self.training else self.token_budget
        logits = self.gate(images)
        values, chosen = decide(logits, tiling, noise=learning, token_budget=budget, given=decisions)
        active = Packing.select(active_slots(chosen, tiling).flatten(1))
        patches = gather_patches(pad_to_regions(images, tiling.region_size), tiling, active)
        tokens = nn.functional.linear(patches.flatten(1), self.embed.weight.flatten(1), self.embed.bias)
        (maps,) = MixedGrid(tiling, chosen, active).scatter([(tokens + self.layer(tokens).relu(), None)])
        if learning and decisions is None:
            maps = maps + maps.detach() * nodes_to_cells(straight_through(values) - chosen, tiling).unsqueeze(1)
        costs = self.costs_of(chosen, size)
        return (maps,), GateOutput(logits, values, chosen, costs.num_tokens[0], costs, self.region_size)

    def costs_of(self, decisions: Tensor, image_size: tuple[int, int]) -> Costs:
        tiling = self.tile(image_size)
        num_tokens = active_slots(decisions, tiling).flatten(1).sum(1)
        gate = torch.full_like(num_tokens, self.gate.macs(tiling), dtype=torch.float64)
        parts = num_tokens.double() * self.embed.weight.numel(), num_tokens.double() * self.layer.weight.numel()
        reference = tiling.num_cells * (self.embed.weight.numel() + self.layer.weight.numel())
        return Costs(num_tokens[None], gate, *parts, reference)

    def dense_costs(self, image_size: tuple[int, int]) -> Costs:
        costs = self.costs_of(self.dense_decisions(torch.zeros(1, 3, *image_size)), image_size)
        return costs._replace(gate=torch.zeros_like(costs.gate))

    def dense_twin(self, image_size: tuple[int, int]) -> nn.Module:
        return ToyTwin(self)


class ToyTwin(nn.Module):
    """The same without a gate."""

    def __init__(self, backbone: ToyBackbone) -> None:
        super().__init__()
        self.embed, self.layer = backbone.embed, backbone.layer

    def forward(self, images: Tensor) -> tuple[Tensor]:
        tokens = self.embed(pad_to_regions(images, 16)).permute(0, 2, 3, 1)
        return ((tokens + self.layer(tokens).relu()).permute(0, 3, 1, 2),)


class BrightGate(RegionGate):
    """Bright regions are coarse; how bright is learned."""

    def __init__(self, coarse_patch_size: int = 32, slope: float = 30.0) -> None:
        super().__init__(coarse_patch_size)
        self.slope, self.level = slope, nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        size = self.coarse_patch_size
        mean = nn.functional.avg_pool2d(images.mean(1), size, ceil_mode=True, count_include_pad=False)
        return self.slope * (mean - self.level)

    def shift_logits(self, offset: float) -> None:
        self.level.data -= offset / self.slope


class MergeNeighbours:
    """Before layer 1 the two most similar neighbours of every image become one; class tokens come first and stay."""

    def __init__(self, backbone: MSViT, layers: tuple[int, ...] = (1,)) -> None:
        self.layers, self.first = layers, backbone.num_extra_tokens

    def __call__(self, index: int, active: Stream, keys: Callable[[Tensor], Tensor]) -> Stream:
        if index not in self.layers:
            return active
        image = active.sequences.image
        begins = torch.cat([image.new_zeros(1), image.bincount().cumsum(0)])
        joins = torch.zeros_like(image)  # 1 = becomes one with the token before it
        for begin, end in zip(begins[:-1] + self.first, begins[1:], strict=True):
            tokens = nn.functional.normalize(active.tokens[begin:end].detach(), dim=1)
            joins[begin + 1 + (tokens[1:] * tokens[:-1]).sum(1).argmax()] = 1
        return active.merge((1 - joins).cumsum(0) - 1)


@contextlib.contextmanager
def registered(cls: type) -> Iterator[None]:
    MODELS.register_module(module=cls)
    try:
        yield
    finally:
        MODELS.module_dict.pop(cls.__name__)


@pytest.fixture
def toy_backbone():
    with registered(ToyBackbone):
        yield


@pytest.fixture
def toy_gate():
    with registered(BrightGate):
        yield


@pytest.mark.parametrize('law', LAWS, ids=name_of)
def test_a_new_backbone_has_the_laws(toy_backbone, law):
    for case in cases(ToyBackbone):
        law(case)


@pytest.mark.parametrize('law', GATE_LAWS, ids=name_of)
def test_a_new_backbone_takes_every_gate_of_its_family(toy_backbone, law):
    for case in gate_cases(ToyBackbone):
        law(case)


@pytest.mark.parametrize('law', GATE_LAWS, ids=name_of)
def test_a_new_gate_has_the_laws(toy_gate, law):
    (case,) = (case for case in gate_cases(MSViT) if case.gate is BrightGate)
    law(case)


def test_a_new_gate_trains(toy_gate):
    """The task alone moves it, in the default execution."""
    backbone = Case(MSViT, 'plain').build(gate=dict(type='BrightGate'))
    features, choices = run(backbone, random_images(), training=True)
    assert 0 < choices.decisions.mean() < 1
    assert gradients(task_loss(features), backbone.gate)['level'].any()


EXAMPLES = ('plain', 'no class token', 'levels')


@pytest.mark.parametrize('example', EXAMPLES)
def test_a_step_that_changes_nothing_is_none(example):
    backbone, images = Case(MSViT, example).build(), random_images()
    wanted, choices = run(backbone, images)
    assert backbone.between == ()
    backbone.between = (lambda index, active, keys: active,)
    for execution in backbone.test_executions:
        features, same = run(backbone, images, None, execution)
        close(features, wanted, execution)
        close(tuple(same.costs), tuple(choices.costs), execution)


@pytest.mark.parametrize('layers', [(1,), (0, 1)])
@pytest.mark.parametrize('example', EXAMPLES)
def test_a_step_that_merges_tokens(example, layers):
    """Features keep their places, what has merged is shared, later layers have fewer tokens, and all of it learns."""
    backbone, images = Case(MSViT, example).build(), random_images()
    wanted, choices = run(backbone, images, execution='packed')
    backbone.between = (MergeNeighbours(backbone, layers),)
    features, merged = run(backbone, images, choices.decisions, 'packed')
    fewer = torch.tensor([sum(i >= layer for layer in layers) for i in range(2)])
    assert torch.equal(merged.costs.num_tokens, choices.costs.num_tokens - fewer[:, None])
    assert torch.equal(merged.num_tokens, choices.num_tokens)
    assert (merged.costs.encoder < choices.costs.encoder).all()
    for x, y in zip(features, wanted, strict=True):
        assert x.shape == y.shape
    assert not torch.allclose(features[-1], wanted[-1])
    for i in range(3):
        kinds, before = (len(x[i].flatten(1).T.unique(dim=0)) for x in (features[-1], wanted[-1]))
        assert kinds == before - len(layers)
    for i in range(3):  # the last token of one image and the first of the next are no neighbours
        alone, _ = run(backbone, images[i : i + 1], choices.decisions[i : i + 1], 'packed')
        close(alone, tuple(x[i : i + 1] for x in features))
    for execution in ('packed', 'counterfactual'):
        trained, own = run(backbone, images, None, execution, training=True)
        again, _ = run(backbone, images, own.decisions, 'packed')
        close([x.detach() for x in trained], list(again))
        found = gradients(task_loss(trained), backbone)
        assert all(x is not None and x.any() for name, x in found.items() if not name.startswith('gate.'))
        assert all((found[name] is None) == (execution == 'packed') for name in found if name.startswith('gate.'))


def test_merged_layers_cost_what_is_counted():
    for example in (*EXAMPLES, 'region scope'):
        backbone, images = Case(MSViT, example).build(), random_images()
        backbone.between = (MergeNeighbours(backbone),) if example != 'region scope' else (_merge_first_two,)
        with torch.no_grad():
            costs = backbone.forward_gated(images)[1].costs
            close(costs.total.sum().item(), float(count_macs(backbone, images)), example)
        assert (costs.num_tokens[1] < costs.num_tokens[0]).any()


def _merge_first_two(index: int, active: Stream, keys: object) -> Stream:
    """Within the first region with two tokens or more."""
    if index != 1:
        return active
    begin = 0
    for length in active.sequences.lengths:
        if length > 1:
            break
        begin += length
    joins = torch.zeros_like(active.sequences.image)
    joins[begin + 1] = 1
    return active.merge((1 - joins).cumsum(0) - 1)


def test_what_cannot_merge_says_so():
    backbone, images = Case(MSViT, 'plain').build(), random_images()
    backbone.between = (lambda index, active, keys: active.merge(torch.zeros_like(active.sequences.image)),)
    with pytest.raises(ValueError, match='merge: wanted places 0, 1, ... in the order of the sequences, got'):
        run(backbone, images)
    for execution in ('masked', 'padded'):
        with pytest.raises(ValueError, match='merge: wanted an execution on active tokens'):
            run(backbone, images, execution=execution)


@pytest.mark.parametrize('part', sorted({*GatedBackbone.__abstractmethods__, 'gate_family', 'default_gate'}))
def test_a_class_that_lacks_a_part_is_refused(part):
    parts = {name: lambda self, *args: None for name in GatedBackbone.__abstractmethods__}
    parts |= dict(gate_family=RegionGate, default_gate={}, default_warmup_gate={})
    whole = type('Whole', (GatedBackbone,), dict(parts))
    assert isinstance(whole(), GatedBackbone)
    del parts[part]
    with pytest.raises(ValueError, match=f'^Lacking: wanted all that GatedBackbone asks for, got no {part}$'):
        type('Lacking', (GatedBackbone,), parts)()
