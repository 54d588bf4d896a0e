"""The forms that a benchmark compares do what they are named after."""

import pytest
import torch

from msvit_mm.backbones import DynamicTokenRoutingTransformer
from msvit_mm.ops.macs import count_macs
from msvit_mm.studies.forms import lower_resolution, make_forms, state_decisions


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_tokens_of_the_dense_host_lie_in_memory_order(make_msvit):
    dense = make_msvit(with_cls_token=False).dense_twin((64, 96))
    dense.eval()
    seen = []
    dense.layers[0].register_forward_pre_hook(lambda layer, args: seen.append(args[0].is_contiguous()))
    dense(draw(2, 3, 64, 96))
    assert seen == [True]


def test_random_decisions_differ_between_images_around_the_ratio(make_msvit):
    model, generator, images = make_msvit(), torch.Generator().manual_seed(0), draw(4, 3, 256, 512)
    for ratio in (0.25, 0.5, 0.75):
        decisions = model.random_decisions(ratio, images, generator)
        assert decisions.shape == (4, 8, 16)
        shares = decisions.mean((1, 2))
        assert shares.mean() == ratio
        assert len(set(shares.tolist())) == 4
        assert model.random_decisions(ratio, images[:1], generator).mean() == ratio
    assert model.random_decisions(0.0, draw(2, 3, 70, 90), generator).sum() == 0
    assert model.random_decisions(1.0, draw(2, 3, 70, 90), generator).mean() == 1
    with pytest.raises(ValueError, match=r'ratio must lie in \[0, 1\], got 1.5'):
        model.random_decisions(1.5, images, generator)


@pytest.mark.parametrize('num_tokens', [1, 30, 200, 1024, 2048])
def test_lower_resolution_has_about_as_many_tokens_in_the_same_proportions(num_tokens):
    height, width = lower_resolution(num_tokens, (512, 1024), 16)
    assert abs(height * width / 256 - num_tokens) <= (height + width) / 32 + 1
    assert abs(2 * height - width) <= 2 * 16


def test_steps_between_the_layers_are_a_form_of_their_own(make_msvit, random_decisions):
    """Gate alone, and with what merges: each counted by what it dispatches, layers alone included."""
    model = make_msvit(merge=dict(type='MutualPairs', before=(1,)))
    images, decisions = draw(3, 3, 70, 90), random_decisions(3, 70, 90)
    forms = list(make_forms(model, images, dict(half=decisions), model.test_executions))
    assert [form.name for form in forms] == ['dense', 'packed', 'packed, steps', 'smaller image']
    with torch.no_grad():
        for form in forms[1:3]:
            form.backbone.eval()
            assert form.gmacs == pytest.approx(count_macs(form.backbone, form.images) / 3e9)
            assert form.layer_gmacs == pytest.approx(count_macs(form.layers) / 3e9)
    assert forms[2].num_tokens < forms[1].num_tokens and len(model.between) == 1


def test_forms_are_all_of_one_batch(make_msvit, random_decisions):
    model = make_msvit()
    images, decisions = draw(3, 3, 70, 90), random_decisions(3, 70, 90)
    forms = list(make_forms(model, images, dict(half=decisions), ('packed', 'masked')))
    names = [(form.decisions, form.name) for form in forms]
    assert names == [('all tokens', 'dense'), ('half', 'packed'), ('half', 'masked'), ('half', 'smaller image')]
    with torch.no_grad():
        for form in forms:
            form.backbone.eval()
            features = form.backbone(form.images)
            assert len(features[0]) == 3
            if form.name != 'masked':  # which computes more than the active tokens
                assert form.gmacs == pytest.approx(count_macs(form.backbone, form.images) / 3e9)
    dense, packed, masked, smaller = forms
    assert masked.layers is None
    for form in (dense, packed, smaller):
        with torch.no_grad():
            out = form.layers()
            out = out if torch.is_tensor(out) else out.levels[-1][0]
            features = form.backbone(form.images)[-1]
        assert form.layer_gmacs == pytest.approx(count_macs(form.layers) / 3e9)
        assert form.layer_gmacs < form.gmacs
        # the last tokens of the last image lie in its last cell
        torch.testing.assert_close(out.flatten(0, -2)[-1], features[-1, :, -1, -1], rtol=1e-4, atol=1e-5)
    assert dense.num_tokens == 5 * 6
    assert packed.num_tokens == masked.num_tokens == model.forward_gated(images, decisions)[1].num_tokens.float().mean()
    assert masked.layer_gmacs == packed.layer_gmacs
    assert abs(smaller.num_tokens - packed.num_tokens) <= 5


def test_a_span_begins_with_the_layers_and_ends_with_them(make_msvit, random_decisions):
    for form in make_forms(make_msvit(), draw(1, 3, 70, 90), dict(half=random_decisions(1, 70, 90)), ('packed',)):
        form.backbone.eval()
        events, host = [], getattr(form.backbone, 'backbone', form.backbone)
        hooks = [
            module.register_forward_hook(lambda *args, name=name, events=events: events.append(name))
            for name, module in host.named_modules()
            if name in ('drop_after_pos', 'ln1') or name.endswith(('attn.qkv', '.ffn'))
        ]
        hooks.append(form.span[0].register_forward_pre_hook(lambda *args, events=events: events.append('begin')))
        hooks.append(form.span[1].register_forward_hook(lambda *args, events=events: events.append('end')))
        with torch.no_grad():
            form.backbone(form.images)
        for hook in hooks:
            hook.remove()
        layers = [f'layers.{i}.{part}' for i in range(2) for part in ('attn.qkv', 'ffn')]
        assert events == ['drop_after_pos', 'begin', *layers, 'end', 'ln1']


@pytest.fixture
def router(perturb):
    torch.manual_seed(0)
    arch = dict(embed_dims=(8, 16, 40, 64), depths=(1, 2, 1, 1), mlp_ratios=(2, 2, 2, 2))
    return perturb(DynamicTokenRoutingTransformer(arch, drop_path_rate=0.0, out_indices=(1, 3))).eval()


def test_forms_of_routes_are_all_of_one_batch(router):
    images = draw(3, 3, 64, 100)
    with torch.no_grad():
        choices = state_decisions(router, images, [0.8], own=True, seed=0)
        assert list(choices) == ['gate', 'random 0.8']
    forms = list(make_forms(router, images, choices, router.test_executions))
    names = [(form.decisions, form.name) for form in forms]
    assert names == [('all tokens', 'dense'), *((name, x) for name in choices for x in ('masked', 'sparse'))]
    own = router.gate, router.test_execution
    with torch.no_grad():
        for form in forms[1:]:
            features = form.backbone(images)
            wanted, output = router.forward_gated(images, choices[form.decisions])
            torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-4)
            assert form.gmacs == pytest.approx(output.costs.total.mean().item() / 1e9)
            assert form.layer_gmacs == pytest.approx(output.costs.encoder.mean().item() / 1e9)
            assert form.num_tokens == output.num_tokens.double().mean()
    assert (router.gate, router.test_execution) == own
    assert forms[-1].gmacs == pytest.approx(0.8 * forms[0].gmacs, rel=0.1)


def test_the_seed_alone_decides_what_is_random(router, make_msvit):
    for backbone, images, ratio in ((router, draw(2, 3, 64, 100), 0.8), (make_msvit(), draw(2, 3, 70, 90), 0.5)):
        state = torch.get_rng_state()
        first, second, other = (
            state_decisions(backbone, images, [ratio], own=False, seed=seed)[f'random {ratio}'] for seed in (0, 0, 1)
        )
        assert torch.equal(torch.get_rng_state(), state)
        first, second, other = (list(x.values()) if isinstance(x, dict) else [x] for x in (first, second, other))
        assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
        assert not all(torch.equal(x, y) for x, y in zip(first, other, strict=True))
