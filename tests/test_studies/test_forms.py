"""The forms that a benchmark compares do what they are named after."""

import pytest
import torch

from msvit_mm.models import DynamicTokenRoutingTransformer
from msvit_mm.models.choices import RouteChoices
from msvit_mm.models.msvit import TEST_EXECUTIONS, TRAIN_EXECUTIONS
from msvit_mm.models.variants import (
    PlainPVT,
    StatedBackbone,
    build_dense,
    executions_of,
    lower_resolution,
    make_variants,
    random_decisions,
    random_routes,
    state_decisions,
)
from msvit_mm.ops.macs import count_macs

OPTIONS = [
    dict(),
    dict(with_cls_token=False),
    dict(pre_norm=True, qkv_bias=False, out_indices=[0, 1]),
    dict(patch_size=8),
]
SIZES = [(64, 96), (70, 90)]


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('options', OPTIONS, ids=str)
@pytest.mark.parametrize('size', SIZES)
def test_dense_host_is_all_fine_and_costs_what_is_counted(make_msvit, tiny_arch, options, size):
    model = make_msvit(gate=dict(type='FixedGate', scale='fine'), **options)
    dense = build_dense(model, dict(type='MSViT', arch=tiny_arch, gate=dict(), **options), size)
    dense.eval()
    images = draw(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(dense(images), model(images), rtol=1e-5, atol=1e-5)
        assert sum(model.dense_macs_of_parts(size).values()) == count_macs(dense, images[:1])


def test_tokens_of_the_dense_host_lie_in_memory_order(make_msvit, tiny_arch):
    options = dict(with_cls_token=False)
    dense = build_dense(make_msvit(**options), dict(arch=tiny_arch, **options), (64, 96))
    dense.eval()
    seen = []
    dense.layers[0].register_forward_pre_hook(lambda layer, args: seen.append(args[0].is_contiguous()))
    dense(draw(2, 3, 64, 96))
    assert seen == [True]


def test_stated_decisions_are_executed_in_every_mode(make_msvit, random_decisions, monkeypatch):
    model = make_msvit()
    own = model.gate, model.train_execution, model.test_execution
    images, decisions = draw(3, 3, 70, 90), random_decisions(3, 70, 90)
    expected = model(images, decisions)
    model.token_budget = 30  # all fine, would the decisions not be stated
    executed = []
    forward_gated = type(model).forward_gated

    def record(self, *args):
        features, gate = forward_gated(self, *args)
        executed.append((gate.decisions, gate.gate_values, self.train_execution, self.test_execution))
        return features, gate

    monkeypatch.setattr(type(model), 'forward_gated', record)
    for training, executions in ((False, TEST_EXECUTIONS), (True, TRAIN_EXECUTIONS)):
        for execution in executions:
            stated = StatedBackbone(model, decisions, execution).train(training)
            features = stated(images)
            torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
            done, gate_values, *modes = executed.pop()
            assert torch.equal(done, decisions)
            assert set(modes) == {execution}
            assert gate_values.requires_grad  # the gate is at work
            if training and execution != 'packed':
                own_path = torch.autograd.grad(features[0].square().sum(), gate_values)
                assert own_path[0].abs().sum() > 0
    assert (model.gate, model.train_execution, model.test_execution) == own
    assert model.token_budget == 30


def test_random_decisions_differ_between_images_around_the_ratio():
    generator = torch.Generator().manual_seed(0)
    for ratio in (0.25, 0.5, 0.75):
        shares = random_decisions(ratio, (4, 8, 16), generator).mean((1, 2))
        assert shares.mean() == ratio
        assert len(set(shares.tolist())) == 4
        assert random_decisions(ratio, (1, 8, 16), generator).mean() == ratio
    assert random_decisions(0.0, (2, 3, 3), generator).sum() == 0
    assert random_decisions(1.0, (2, 3, 3), generator).mean() == 1
    with pytest.raises(ValueError, match=r'wanted a number in \[0, 1\], got 1.5'):
        random_decisions(1.5, (2, 3, 3), generator)


@pytest.mark.parametrize('num_tokens', [1, 30, 200, 1024, 2048])
def test_lower_resolution_has_about_as_many_tokens_in_the_same_proportions(num_tokens):
    height, width = lower_resolution(num_tokens, (512, 1024), 16)
    assert abs(height * width / 256 - num_tokens) <= (height + width) / 32 + 1
    assert abs(2 * height - width) <= 2 * 16


def test_variants_are_all_forms_of_one_batch(make_msvit, tiny_arch, random_decisions):
    model = make_msvit()
    images, decisions = draw(3, 3, 70, 90), random_decisions(3, 70, 90)
    variants = list(make_variants(model, dict(arch=tiny_arch), images, dict(half=decisions), ('packed', 'masked')))
    names = [(variant.decisions, variant.name) for variant in variants]
    assert names == [('all fine', 'dense'), ('half', 'packed'), ('half', 'masked'), ('half', 'smaller image')]
    with torch.no_grad():
        for variant in variants:
            variant.backbone.eval()
            features = variant.backbone(variant.images)
            assert len(features[0]) == 3
            if variant.name != 'masked':  # which computes more than the active tokens
                assert variant.gmacs == pytest.approx(count_macs(variant.backbone, variant.images) / 3e9)
    dense, packed, masked, smaller = variants
    assert masked.blocks is None
    for variant in (dense, packed, smaller):
        with torch.no_grad():
            out = variant.blocks()
            out = out if torch.is_tensor(out) else out[-1][0]
            features = variant.backbone(variant.images)[-1]
        assert variant.block_gmacs == pytest.approx(count_macs(variant.blocks) / 3e9)
        assert variant.block_gmacs < variant.gmacs
        # the last tokens of the last image lie in its last cell
        torch.testing.assert_close(out.flatten(0, -2)[-1], features[-1, :, -1, -1], rtol=1e-4, atol=1e-5)
    assert dense.num_tokens == 5 * 6
    assert packed.num_tokens == masked.num_tokens == model.forward_gated(images, decisions)[1].num_tokens.float().mean()
    assert abs(smaller.num_tokens - packed.num_tokens) <= 5


@pytest.fixture
def router(perturb):
    torch.manual_seed(0)
    arch = dict(embed_dims=(8, 16, 40, 64), depths=(1, 2, 1, 1), mlp_ratios=(2, 2, 2, 2))
    return perturb(DynamicTokenRoutingTransformer(arch, drop_path_rate=0.0, out_indices=(1, 3))).eval()


def test_plain_pvt_is_the_staircase_and_costs_what_is_counted(router):
    images = draw(2, 3, 64, 100)
    own = router.gate
    with torch.no_grad():
        dense, *_ = make_variants(router, {}, images, {}, ())
        plain = dense.backbone(images)
        router.gate = RouteChoices(router).build_gate(dict(type='FixedRoutes', routes='staircase'))
        wanted, output = router.forward_gated(images)
        router.gate = own
        torch.testing.assert_close(plain, wanted, rtol=1e-5, atol=1e-5)
        assert all(x.is_contiguous() for x in plain)
        assert dense.num_tokens == output.num_tokens.float().mean()
        assert dense.gmacs == pytest.approx(count_macs(dense.backbone, images[:1]) / 1e9)
    with pytest.raises(ValueError, match=r"wanted PVTv2's \(2, 2, 2, 2\) blocks, got \(2, 0, 2, 2\)"):
        matrix = [[2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2]]
        PlainPVT(DynamicTokenRoutingTransformer('b0', num_stages=4, depth_matrix=matrix))


def test_route_variants_are_all_forms_of_one_batch(router):
    images = draw(3, 3, 64, 100)
    with torch.no_grad():
        choices = state_decisions(router, images, [0.8], own=True, seed=0)
        assert list(choices) == ['gate', 'random 0.8']
    variants = list(make_variants(router, {}, images, choices, executions_of(router, False)))
    names = [(variant.decisions, variant.name) for variant in variants]
    assert names == [('staircase', 'dense'), *((name, x) for name in choices for x in ('masked', 'sparse'))]
    own = router.gate, router.test_execution
    with torch.no_grad():
        for variant in variants[1:]:
            features = variant.backbone(images)
            wanted, output = router.forward_gated(images, choices[variant.decisions])
            torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-4)
            assert variant.gmacs == pytest.approx(output.macs.mean().item() / 1e9)
    assert (router.gate, router.test_execution) == own
    assert variants[-1].gmacs == pytest.approx(0.8 * variants[0].gmacs, rel=0.1)


def test_stated_routes_are_executed_in_training_with_the_gradient_of_the_gate(router):
    images = draw(2, 3, 64, 100)
    decisions = random_routes(router, 0.8, images)
    stated = StatedBackbone(router, decisions, 'masked').train()
    executed = []
    forward_gated = router.forward_gated
    router.forward_gated = lambda *args: executed.append(forward_gated(*args)) or executed[0]
    features = stated(images)
    done = executed[0][1].decisions
    assert all(torch.equal(done[edge], decisions[edge]) for edge in decisions)
    sum(x.square().mean() for x in features).backward()
    assert all(parameter.grad is not None for parameter in router.gate.parameters())  # which the gate had to work for
