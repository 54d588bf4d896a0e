"""The laws of the backbone: it is its host when all is fine, all executions agree, and every gradient is the right one.

Equalities between executions are proved in double precision, where only a wrong formula can break them.
"""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models.backbones import VisionTransformer
from torch._dynamo.testing import CompileCounter

from msvit_mm.backbones import MSViT, embedding, executions, msvit
from msvit_mm.backbones.layers import PackedSequences, Stream
from msvit_mm.ops.gating import budget_decisions, threshold
from msvit_mm.ops.macs import count_macs
from msvit_mm.ops.packing import Packing
from msvit_mm.ops.tiling import Tiling, active_slots

SIZES = [(64, 96), (96, 64), (70, 90), (48, 113)]
HOST_OPTIONS = [
    dict(),
    dict(with_cls_token=False),
    dict(out_indices=[0, 1]),
    dict(layer_scale_init_value=0.1, final_norm=False),
    dict(pre_norm=True, qkv_bias=False),
    dict(layer_cfgs=dict(ffn_type='swiglu_fused'), layer_scale_init_value=0.1),
    dict(patch_size=8),
]
REGION = dict(attention_scope='region', with_cls_token=False)
TRAIN = ('masked', 'trimmed', 'counterfactual', 'packed')
TEST = ('masked', 'padded', 'packed')
TRAINING_OPTIONS = [
    dict(train_execution='masked', gate_gradient='output'),
    dict(train_execution='masked', gate_gradient='mask'),
    dict(train_execution='masked', gate_gradient='both'),
    dict(train_execution='trimmed', gate_gradient='output'),
    dict(train_execution='trimmed', gate_gradient='mask'),
    dict(train_execution='trimmed', gate_gradient='both'),
    dict(train_execution='counterfactual'),
    dict(train_execution='counterfactual', counterfactual_share=0.5),
    dict(train_execution='packed'),
]


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def random_images(batch=3, height=70, width=90, dtype=torch.float64, channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=dtype)


def weighted_sum(features, linear=False):
    """A scalar of all features, in which no two places and channels count the same."""
    generator = torch.Generator().manual_seed(2)
    total = 0
    for x in features:
        weights = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        total = total + (x * weights).sum() + (0 if linear else (x.square() * weights).sum())
    return total


def training_step(model, images, seed=4, linear=False):
    """Loss, gradient of the gate values, and gradients of the parameters of one step with the gate's own decisions."""
    model.train()
    torch.manual_seed(seed)
    features, gate = model.forward_gated(images)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = weighted_sum(features, linear)
    gradients = torch.autograd.grad(loss, [gate.gate_values, *parameters.values()], allow_unused=True)
    return loss.detach(), gradients[0], dict(zip(parameters, gradients[1:], strict=True)), gate


# Law 2: all fine is the host


@pytest.mark.parametrize('options', HOST_OPTIONS, ids=str)
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_all_fine_is_the_host(make_msvit, tiny_arch, height, width, options):
    model = make_msvit(gate=dict(type='FixedGate', scale='fine'), **options)
    out_indices = list(options.get('out_indices', [-1]))
    host = VisionTransformer(
        arch=tiny_arch, img_size=(64, 96), out_type='featmap', **options | {'out_indices': out_indices}
    )
    host.load_state_dict(model.state_dict())
    host.eval()
    images = random_images(2, height, width, torch.float32)
    with torch.no_grad():
        expected = host(images)
        for model.test_execution in TEST:
            features = model(images)
            assert len(features) == len(expected) == len(out_indices)
            for actual, wanted in zip(features, expected, strict=True):
                torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


def test_class_tokens_of_all_fine_are_the_hosts(make_msvit, tiny_arch):
    options = dict(out_type='cls_token', out_indices=[0, 1])
    model = make_msvit(gate=dict(type='FixedGate', scale='fine'), **options)
    host = VisionTransformer(arch=tiny_arch, img_size=(64, 96), **options)
    host.load_state_dict(model.state_dict())
    host.eval()
    images = random_images(3, 70, 90, torch.float32)
    with torch.no_grad():
        expected = host(images)
        for model.test_execution in TEST:
            for actual, wanted in zip(model(images), expected, strict=True):
                torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


def test_class_tokens_teach_the_gate_through_the_mask(make_msvit):
    model = make_msvit(out_type='cls_token', train_execution='masked', gate_gradient='mask').double()
    _, gate_gradient, gradients, _ = training_step(model, random_images())
    assert gate_gradient.all()
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())


def test_coarse_is_not_the_host(make_msvit):
    model = make_msvit()
    images = random_images(dtype=torch.float32)
    fine, coarse = (model(images, torch.full((3, 3, 3), d))[0] for d in (0.0, 1.0))
    assert (fine - coarse).abs().max() > 0.1


@pytest.mark.parametrize('arch', sorted(MSViT.arch_zoo))
def test_every_architecture_has_the_keys_of_the_host(arch):
    with torch.device('meta'):
        model, host = MSViT(arch=arch), VisionTransformer(arch=arch)
    shapes, host_shapes = ({name: x.shape for name, x in m.state_dict().items()} for m in (model, host))
    assert {name: shape for name, shape in shapes.items() if not name.startswith('gate.')} == host_shapes
    assert any(name.startswith('gate.') for name in shapes)


# Laws 3 and 4: executions agree, and images are alone


@pytest.mark.parametrize('options', [*HOST_OPTIONS, REGION, REGION | dict(patch_size=8)], ids=str)
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_test_executions_agree(make_msvit, random_decisions, height, width, options):
    model = make_msvit(**options).double()
    images, decisions = random_images(3, height, width), random_decisions(3, height, width)
    results = {}
    with torch.no_grad():
        for model.test_execution in TEST:
            results[model.test_execution] = model.forward_gated(images, decisions)
    features, gate = results['packed']
    size = (-(-height // model.patch_size), -(-width // model.patch_size))
    assert all(x.shape == (3, 32, *size) for x in features)
    assert torch.equal(gate.decisions, decisions.double())
    for other, other_gate in results.values():
        close(other, features)
        close(other_gate, gate)


@pytest.mark.parametrize(
    'options',
    [dict(), dict(drop_path_rate=0.5), dict(with_cls_token=False), REGION | dict(drop_path_rate=0.5)],
    ids=str,
)
def test_train_executions_agree(make_msvit, options):
    images = random_images()
    results = {}
    for execution, share in itertools.product(TRAIN, (1.0, 0.3)):
        settings = dict(out_indices=[0, 1], train_execution=execution, counterfactual_share=share)
        model = make_msvit(**settings, **options).double().train()
        torch.manual_seed(0)
        results[execution, share] = model.forward_gated(images)
    features, gate = results['packed', 1.0]
    assert 0 < gate.decisions.mean() < 1
    for other, other_gate in results.values():
        close(other, features)
        assert torch.equal(other_gate.decisions, gate.decisions)


def test_drop_path_drops_branches_of_whole_images(make_msvit):
    model = make_msvit(drop_path_rate=0.5, gate=dict(type='RandomGate')).double().train()
    reference = make_msvit(gate=dict(type='RandomGate')).double()
    images, decisions = random_images(1).expand(40, -1, -1, -1), torch.zeros(40, 3, 3)
    maps = model(images, decisions)[0]
    distinct = torch.unique(maps.flatten(1).mul(1e6).round(), dim=0)
    assert 3 <= len(distinct) <= 4  # the last layer drops each of its two branches or keeps it; the first drops none
    assert not any(torch.allclose(x, reference(images[:1], decisions[:1])[0][0]) for x in maps)  # kept is scaled up
    close(model.eval()(images[:1], decisions[:1]), reference(images[:1], decisions[:1]))


@pytest.mark.parametrize('execution', TEST)
def test_what_pads_the_image_reaches_no_feature(make_msvit, monkeypatch, execution):
    model = make_msvit(test_execution=execution).double()
    images, by_hand = random_images(2, 70, 90), torch.zeros(2, 3, 80, 96, dtype=torch.float64)
    by_hand[:, :, :70, :90] = images
    fine = torch.zeros(2, 3, 3)
    features = model(images, fine)
    close(model(by_hand, fine), features)

    def pad_loudly(images, region_size):
        padded = images.new_full((2, 3, 96, 96), 100.0)
        padded[:, :, :80] = images
        return padded

    expected = model(by_hand, fine)
    monkeypatch.setattr(msvit, 'pad_to_regions', pad_loudly)
    close(model(by_hand, fine), expected)


@pytest.mark.parametrize('execution', TEST)
def test_attention_within_regions_sees_no_other_region(make_msvit, execution):
    model = make_msvit(test_execution=execution, **REGION).double()
    everywhere = make_msvit(test_execution=execution, with_cls_token=False).double()
    images, decisions = random_images(1, 64, 96), torch.tensor([[[0, 1, 0], [1, 0, 1]]])
    changed = images.clone()
    changed[:, :, 32:, :32] += 1  # the region in row 1, column 0: cells 2:4, 0:2
    own = torch.zeros(4, 6, dtype=torch.bool)
    own[2:, :2] = True
    for net, reach in ((model, own), (everywhere, torch.ones_like(own))):
        difference = (net(changed, decisions)[0] - net(images, decisions)[0]).abs().amax((0, 1))
        assert torch.equal(difference > 1e-6, reach)


# What it costs


@pytest.mark.parametrize(('height', 'width'), [(64, 96), (70, 90), (33, 161)])
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        REGION,
        REGION | dict(patch_size=8),
        dict(with_cls_token=False),
        dict(layer_cfgs=dict(ffn_type='swiglu_fused')),
        dict(patch_size=8, gate=dict(type='ScaleGate', sample_size=8, pixels='raw', hidden_dims=16)),
        dict(gate=dict(type='EdgeGate'), in_channels=5),
    ],
    ids=str,
)
def test_costs_are_what_a_forward_pass_dispatches(make_msvit, random_decisions, height, width, options):
    model = make_msvit(**options)
    images = random_images(3, height, width, torch.float32, options.get('in_channels', 3))
    decisions = random_decisions(3, height, width)
    with torch.no_grad():
        _, gate = model.forward_gated(images, decisions)
        dispatched = [count_macs(model, images[i : i + 1], decisions[i : i + 1]) for i in range(3)]
        fine_only = count_macs(model, images[:1], torch.zeros_like(decisions[:1]))
    assert gate.costs.total.tolist() == dispatched
    stated = model.costs_of(decisions, (height, width))
    assert all(torch.equal(x, y) for x, y in zip(stated[:-1], gate.costs[:-1], strict=True))
    assert torch.equal(stated.num_tokens, gate.num_tokens.expand(2, -1))
    fine = model.costs_of(torch.zeros_like(decisions[:1]), (height, width))
    assert fine.total == fine_only
    dense = model.dense_costs((height, width))
    assert stated.reference == dense.reference == dense.total
    if options.get('attention_scope') == 'region':  # the dense network attends to the whole image
        assert dense.total > fine.total - fine.gate
    else:
        assert dense.total == fine.total - fine.gate


def test_parts_are_what_each_part_dispatches(make_msvit, random_decisions):
    model = make_msvit()
    images, tiling, decisions = random_images(2, dtype=torch.float32), model.tile((70, 90)), random_decisions(2, 70, 90)
    costs = model.costs_of(decisions, (70, 90))
    assert costs.gate.tolist() == [count_macs(model.gate, images[:1])] * 2
    slots = F.pad(active_slots(decisions, tiling).flatten(1), (1, 0), value=True)
    assert costs.embedding.sum() == count_macs(model.embed, images, tiling, Packing.select(slots))
    assert costs.encoder[0] == count_macs(model.layers_alone(images[:1], decisions[:1]))
    assert torch.equal(costs.total, costs.gate + costs.embedding + costs.encoder)
    dense = model.dense_costs((70, 90))
    fine = model.costs_of(torch.zeros(1, 3, 3), (70, 90))
    assert dense.gate == 0 and dense.encoder == fine.encoder and dense.embedding == fine.embedding


def halve(index, active, keys):
    """Before the second layer the first of every two tokens of a sequence stands for both."""
    if index != 1:
        return active
    lengths, first, merged = active.sequences.lengths, 0, []
    for length in lengths:
        merged += [first + i // 2 for i in range(length)]
        first = merged[-1] + 1
    merged = torch.tensor(merged)
    kept = torch.cat([torch.arange(length) % 2 == 0 for length in lengths])
    sequences = PackedSequences([-(-length // 2) for length in lengths], active.sequences.image[kept])
    return Stream(active.tokens[kept], sequences, merged)


@pytest.mark.parametrize('options', [dict(), dict(with_cls_token=False), REGION], ids=str)
def test_costs_follow_what_steps_between_the_layers_leave(make_msvit, random_decisions, options):
    model = make_msvit(**options)
    images, decisions = random_images(3, dtype=torch.float32), random_decisions(3, 70, 90)
    with torch.no_grad():
        _, whole = model.forward_gated(images, decisions)
        model.between = (halve,)
        (features,), gate = model.forward_gated(images, decisions)
        dispatched = [count_macs(model, images[i : i + 1], decisions[i : i + 1]) for i in range(3)]
    assert features.shape == (3, 32, 5, 6)
    assert gate.costs.total.tolist() == dispatched
    assert (gate.costs.total < whole.costs.total).all()
    assert torch.equal(gate.costs.num_tokens[0], whole.num_tokens)
    assert torch.equal(gate.num_tokens, whole.num_tokens)
    assert (gate.costs.num_tokens[1] <= 0.75 * whole.num_tokens + 1).all()


# The gate's gradient


@pytest.mark.parametrize(
    'options', [dict(), dict(out_indices=[0, 1], drop_path_rate=0.3), dict(with_cls_token=False), REGION]
)
def test_counterfactuals_of_all_regions_are_the_masked_reference(make_msvit, options):
    images = random_images()
    masked = training_step(make_msvit(train_execution='masked', **options).double(), images)
    counterfactual = training_step(make_msvit(train_execution='counterfactual', **options).double(), images)
    assert 0 < masked[3].decisions.mean() < 1
    assert masked[1].abs().min() > 0
    close(counterfactual[:3], masked[:3])


def reference_table(model, images, decisions):
    """All candidates after the last layer, each a query of the active ones, (B, R, 1 + 4, C); as plain as can be."""
    tiling = Tiling(*images.shape[-2:], (16, 32))
    num_candidates = 1 + tiling.num_regions * tiling.slots
    candidates = Packing.select(torch.ones(len(images), num_candidates, dtype=torch.bool))
    x = model.embed(images, tiling, candidates).unflatten(0, (-1, num_candidates))
    active = F.pad(active_slots(decisions, tiling).flatten(1), (1, 0), value=True)
    for layer in model.layers:
        q, k, v = layer.attn.qkv(layer.ln1(x)).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT / 4).masked_fill(~active[:, None, None], -torch.inf)
        x = x + layer.attn.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = layer.ffn(layer.ln2(x), identity=x)
    return model.ln1(x)[:, 1:].unflatten(1, (tiling.num_regions, tiling.slots))


@pytest.mark.parametrize('execution', ['masked', 'counterfactual'])
def test_features_and_output_gradient_are_those_of_the_reference(make_msvit, execution):
    """dL/dm of a region: what each of its cells would be coarse less what it would be fine, times dL/dfeature."""
    model = make_msvit(train_execution=execution).double()
    images = random_images(2)
    loss, gradient, _, gate = training_step(model, images, linear=True)
    table = reference_table(model.eval(), images, gate.decisions)
    weights = torch.randn(2, 32, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected_loss, expected_gradient = 0, torch.zeros_like(gradient)
    for y in range(5):
        for x in range(6):
            row, col = y // 2, x // 2
            coarse, fine = table[:, 3 * row + col, 0], table[:, 3 * row + col, 1 + y % 2 * 2 + x % 2]
            expected_gradient[:, row, col] += ((coarse - fine) * weights[:, :, y, x]).sum(1)
            feature = torch.where(gate.decisions[:, row, col, None] == 1, coarse, fine)
            expected_loss += (feature * weights[:, :, y, x]).sum()
    close(loss, expected_loss)
    close(gradient, expected_gradient)


def test_a_share_of_the_regions_carries_the_scaled_gradient(make_msvit, monkeypatch):
    images = random_images()
    _, full, full_parameters, _ = training_step(make_msvit(counterfactual_share=1.0).double(), images, linear=True)
    drawn = (torch.rand(3, 3, 3) < 0.4).double()
    monkeypatch.setattr(executions, 'draw_regions', lambda like, share: drawn)
    _, gradient, parameters, _ = training_step(make_msvit(counterfactual_share=0.4).double(), images, linear=True)
    close(gradient, full * drawn * drawn.numel() / drawn.sum())
    for name in parameters:
        if not name.startswith('gate.'):
            close(parameters[name], full_parameters[name])


def test_counterfactuals_keep_nothing_for_the_backward_pass(make_msvit):
    """They cost a forward pass alone: the memory of training stays that of the active tokens."""
    saved = {}
    for execution in TRAIN:
        model = make_msvit(train_execution=execution, gate=dict(type='ScaleGate', initial_ratio=0.999)).train()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            _, gate = model.forward_gated(random_images(dtype=torch.float32))
        assert gate.decisions.mean() > 0.9
        saved[execution] = sum(sizes)
    extra = {execution: saved[execution] - saved['packed'] for execution in TRAIN}
    assert 0 < extra['counterfactual'] < 0.2 * extra['masked']  # no more than the output mix itself


@pytest.mark.parametrize('scope', [dict(), REGION], ids=['image', 'region'])
def test_trimming_keeps_the_gradient_of_what_it_keeps(make_msvit, scope):
    """As many candidates as the longest sequence is active: the active ones, then the first others in the image."""
    images, options = random_images(), dict(counterfactual_share=1.0, **scope)
    masked = training_step(make_msvit(train_execution='masked', **options).double(), images)
    trimmed = training_step(make_msvit(train_execution='trimmed', **options).double(), images)
    decisions, tiling = masked[3].decisions, Tiling(70, 90, (16, 32))
    active = active_slots(decisions, tiling).flatten(1).tolist()
    inside = active_slots(torch.zeros_like(decisions), tiling).flatten(1).tolist()
    length = 5 if scope else 45
    rows = [(b, begin, begin + length) for b in range(3) for begin in range(0, 45, length)]
    longest = max(sum(active[b][begin:end]) for b, begin, end in rows)
    whole = torch.ones(3, 9, dtype=torch.bool)
    for b, begin, end in rows:
        spare = longest - sum(active[b][begin:end])
        for i in range(begin, end):
            if not active[b][i] and (inside[b][i] or i % 5 == 0):
                whole[b, i // 5] &= spare > 0
                spare -= 1
    assert 0 < whole.double().mean() < 1
    close(trimmed[0], masked[0])
    close(trimmed[1], masked[1] * whole.view(3, 3, 3))
    close(*({name: x for name, x in result[2].items() if not name.startswith('gate.')} for result in (trimmed, masked)))


@pytest.mark.parametrize('options', TRAINING_OPTIONS, ids=str)
def test_checkpoints_spare_memory_and_change_no_gradient(make_msvit, options):
    """Also where dropout and stochastic depth draw numbers, which must be drawn alike when a layer runs again."""
    options = options | dict(drop_rate=0.1, drop_path_rate=0.3, layer_cfgs=dict(attn_drop_rate=0.2))
    results, saved = [], []
    for with_cp in (False, True):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            results.append(training_step(make_msvit(with_cp=with_cp, **options).double(), random_images())[:3])
        saved.append(sum(sizes))
    close(*results)
    assert saved[1] < 0.8 * saved[0]  # of two layers


@pytest.mark.parametrize(('share', 'num_drawn'), [(1.0, 20), (0.5, 10), (0.26, 5), (1e-3, 1)])
def test_drawn_regions(share, num_drawn):
    drawn = executions.draw_regions(torch.zeros(4000, 4, 5), share)
    assert set(drawn.unique().tolist()) <= {0, 1}
    assert (drawn.sum((1, 2)) == num_drawn).all()
    torch.testing.assert_close(drawn.mean(0), torch.full((4, 5), num_drawn / 20), rtol=0, atol=0.045)


@pytest.mark.parametrize('share', [1.0, 0.5, 0.26])
def test_draws_at_all_count_one_on_average(share):
    weights = torch.tensor([executions.draw_at_all(share) for _ in range(4000)])
    assert set(weights.unique().tolist()) <= {0.0, torch.tensor(1 / share).item()}
    assert weights.mean().item() == pytest.approx(1, abs=0.12)


def test_mask_gradient_is_the_slope_in_the_key_weights(make_msvit, monkeypatch):
    """Finite differences: the loss moves by the gate's gradient when the region's keys weigh a little more or less."""
    model = make_msvit(train_execution='masked', gate_gradient='mask').double()
    images = random_images(1)
    loss, gradient, _, _ = training_step(model, images)
    straight_through, step = executions.straight_through, 1e-6
    for row, col in [(0, 0), (1, 2), (2, 1)]:
        nudge = torch.zeros(1, 3, 3, dtype=torch.float64)
        nudge[0, row, col] = step
        monkeypatch.setattr(executions, 'straight_through', lambda x, nudge=nudge: straight_through(x) + nudge)
        slope = (training_step(model, images)[0] - loss) / step
        assert slope.item() == pytest.approx(gradient[0, row, col].item(), rel=1e-4)


# Law 6: who gets a gradient


@pytest.mark.parametrize(
    'host', [dict(), dict(with_cls_token=False, pre_norm=True, layer_scale_init_value=0.1)], ids=str
)
@pytest.mark.parametrize('options', TRAINING_OPTIONS, ids=str)
def test_every_parameter_has_a_gradient(make_msvit, options, host):
    _, gate_gradient, gradients, _ = training_step(make_msvit(**options, **host).double(), random_images())
    for name, gradient in gradients.items():
        if options['train_execution'] == 'packed' and name.startswith('gate.'):
            assert gradient is None  # the task does not reach a gate that trains packed; its own loss does
            continue
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), name
    assert (gate_gradient is None) == (options['train_execution'] == 'packed')


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('options', TRAINING_OPTIONS, ids=str)
def test_bfloat16_autocast_keeps_the_gradients(make_msvit, options, with_cp):
    images = random_images(dtype=torch.float32)
    model = make_msvit(with_cp=with_cp, **options)
    _, gate_gradient, expected, _ = training_step(model, images)
    with torch.autocast('cpu', torch.bfloat16):
        _, gate_gradient, gradients, _ = training_step(model, images)
    for name, gradient in gradients.items():
        if expected[name] is not None:
            assert (gradient - expected[name]).norm() < 0.1 * expected[name].norm(), name
    assert gate_gradient is None or gate_gradient.dtype == torch.float32


def test_frozen_stages_stay_frozen(make_msvit):
    model = make_msvit(frozen_stages=1, drop_rate=0.1).train()
    assert not (model.layers[0].training or model.patch_embed.training or model.drop_after_pos.training)
    assert model.layers[1].training and model.gate.training
    weighted_sum(model(random_images(dtype=torch.float32))).backward()
    frozen = ('layers.0.', 'pos_embed', 'cls_token', 'patch_embed.')
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name


# What is kept between calls, and what is compiled


def test_position_tables_are_kept_where_they_need_no_gradient(make_msvit, monkeypatch):
    model = make_msvit(gate=dict(type='FixedGate', scale='coarse'))
    made, make_positions = [], embedding.make_positions
    monkeypatch.setattr(
        embedding, 'make_positions', lambda host, tiling: made.append(tiling) or make_positions(host, tiling)
    )
    images = random_images(dtype=torch.float32)
    with torch.inference_mode():
        first = model(images)
    with torch.no_grad():
        close([*model(images), *model.train()(images)], first * 2)
    assert len(made) == 1
    for count in (2, 3):
        weighted_sum(model(images)).backward()  # in training the table is a part of the graph
        assert len(made) == count
    model.pos_embed.requires_grad_(False)
    weighted_sum(model(images)).backward()  # what inference kept serves a frozen embedding
    assert len(made) == 3
    with torch.no_grad():
        for i in range(40):
            model(images[..., : 32 + i])
    assert len(model.position_tables._tables) == 8


def test_position_tables_follow_every_change(make_msvit):
    """An optimizer step, a loaded state, averaged weights swapped in behind autograd's back, another type."""
    model, other = make_msvit(), make_msvit()
    images = random_images(dtype=torch.float32)
    with torch.no_grad():
        other.pos_embed.normal_()

    def fresh():
        return MODELS.build(dict(type='MSViT', arch=model.arch_settings, img_size=(64, 96))).eval()

    def step():
        weighted_sum(model(images)).backward()
        torch.optim.SGD(model.parameters(), lr=1e-3).step()

    changes = [
        step,
        lambda: model.load_state_dict(other.state_dict()),
        lambda: model.pos_embed.data.mul_(2),
        lambda: setattr(model.pos_embed, 'data', model.pos_embed.data.flip(1)),
        model.double,
        lambda: model.pos_embed.data.mul_(2),
        model.float,
    ]
    for change in changes:
        with torch.no_grad():
            before = model(images.to(model.pos_embed.dtype))[0]
        change()
        untouched = fresh().to(model.pos_embed.dtype)
        untouched.load_state_dict(model.state_dict())
        with torch.no_grad():
            features = model(images.to(model.pos_embed.dtype))
            close(features, untouched(images.to(model.pos_embed.dtype)))
            close(copy.deepcopy(model)(images.to(model.pos_embed.dtype)), features)
        if change not in (model.double, model.float):
            assert not torch.allclose(features[0], before)


@pytest.mark.slow
@pytest.mark.parametrize('training', [False, True])
@torch._dynamo.config.patch(inline_inbuilt_nn_modules=True)  # torch's default since 2.5
def test_compiled_once_for_all_layers_and_numbers_of_tokens(tiny_arch, random_decisions, training):
    """The second batch makes the number of tokens dynamic; then nothing is compiled again."""
    torch._dynamo.reset()
    arch = tiny_arch | dict(num_layers=9)  # more than dynamo would compile apart
    model = MODELS.build(dict(type='MSViT', arch=arch, img_size=(64, 96))).train(training)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    images, counts = random_images(dtype=torch.float32), []
    for seed in range(5):
        decisions = random_decisions(3, 70, 90, seed)
        with torch.set_grad_enabled(training):
            features = compiled(images, decisions)
            torch.testing.assert_close(features, model.forward_gated(images, decisions)[0], rtol=1e-4, atol=1e-4)
        counts.append(counter.frame_count)
    torch._dynamo.reset()
    assert 0 < counts[0] < counts[1] < 40
    assert counts[1:] == counts[1:2] * 4


# Contract


@pytest.mark.parametrize('out_indices', [(-2, -1), [-2, -1], -1])
def test_out_indices_are_not_mutated(make_msvit, out_indices):
    before = out_indices if isinstance(out_indices, int) else type(out_indices)(out_indices)
    model = make_msvit(out_indices=out_indices)
    assert out_indices == before
    assert model.out_indices == ([1] if out_indices == -1 else [0, 1])


def test_gate_config_is_not_mutated(make_msvit):
    gate = dict(type='ScaleGate', sample_size=8)
    assert make_msvit(gate=gate, patch_size=8, coarse_patch_size=16).gate.coarse_patch_size == 16
    assert gate == dict(type='ScaleGate', sample_size=8)


def test_layer_depths(make_msvit):
    model = make_msvit()
    names = ['cls_token', 'pos_embed', 'patch_embed.projection.weight', 'layers.0.ln1.bias', 'layers.1.attn.qkv.weight']
    assert [model.get_layer_depth(name) for name in names] == [(0, 4), (0, 4), (0, 4), (1, 4), (2, 4)]
    assert model.get_layer_depth('backbone.gate.layers.0.weight', prefix='backbone.') == (3, 4)
    assert model.get_layer_depth('ln1.weight') == (3, 4)


def test_other_image_sizes_interpolate_the_position_embedding(make_msvit, tiny_arch):
    model = make_msvit(img_size=64)
    host = VisionTransformer(arch=tiny_arch, img_size=64, out_type='featmap')
    host.load_state_dict(model.state_dict(), strict=False)
    host.eval()
    images = random_images(1, 128, 96, torch.float32)
    close(model(images, torch.zeros(1, 4, 3)), host(images), 1e-5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='deit-nano'), "arch must be one of 'b', 'base', .*'small', got 'deit-nano'"),
        (
            dict(train_execution='dense'),
            "train_execution must be one of 'masked', 'trimmed', 'counterfactual', 'packed', got 'dense'",
        ),
        (dict(test_execution='dense'), "test_execution must be one of 'masked', 'padded', 'packed', got 'dense'"),
        (dict(gate_gradient='input'), "gate_gradient must be one of 'output', 'mask', 'both', got 'input'"),
        (dict(gate_gradient='mask'), "'mask' needs train_execution='masked' or 'trimmed', got .*'counterfactual'"),
        (dict(out_type='raw'), "out_type must be one of 'featmap', 'tokens', 'cls_token', got 'raw'"),
        (dict(out_type='cls_token'), "a learned gate needs gate_gradient='mask' or .*, got 'output', 'counterfactual'"),
        (dict(coarse_patch_size=40), r'each a larger multiple of the one before, got \(16, 40\)'),
        (dict(counterfactual_share=0), r'counterfactual_share must lie in \(0, 1\], got 0'),
        (dict(counterfactual_share=1.1), r'counterfactual_share must lie in \(0, 1\], got 1.1'),
        (dict(attention_scope='batch'), "attention_scope must be one of 'image', 'region', got 'batch'"),
        (dict(attention_scope='region'), "attention_scope='region' needs with_cls_token=False"),
        (dict(train_ratios=(0.5, 1.2)), r'train_ratios must lie in .* got \(0.5, 1.2\)'),
        (
            dict(train_ratios=(0.5, 1), gate_gradient='both', train_execution='masked'),
            "train_ratios needs gate_gradient='output', got 'both'",
        ),
        (dict(gate_temperature=float('nan')), r'gate_temperature must lie in \(0, inf\), got nan'),
        (dict(token_budget='60'), r"token_budget must lie in \(0, inf\), got '60'"),
        (dict(drop_path_rate=-1), r'drop_path_rate must lie in \[0, 1\), got -1'),
        (dict(gate_temperature=0), r'gate_temperature must lie in \(0, inf\), got 0'),
        (dict(gate_temperature=None), r'gate_temperature must lie in \(0, inf\), got None'),
        (dict(out_indices=[2]), r'out_indices: wanted layers of 0 to 1, got \[2\]'),
        (dict(patch_cfg=dict(stride=8)), 'patch_cfg: wanted patches of .* that neither overlap nor leave gaps'),
        (dict(patch_cfg=dict(padding=4)), 'patch_cfg: wanted patches of .* that neither overlap nor leave gaps'),
        (dict(img_size=(0, 32)), r'at least one pixel, got \(height, width\) \(0, 32\)'),
    ],
    ids=str,
)
def test_wrong_arguments(make_msvit, options, message):
    with pytest.raises(ValueError, match=message):
        make_msvit(**options)


@pytest.mark.parametrize(
    ('decisions', 'message'),
    [
        (torch.zeros(2, 3, 2), r'\(B, rows, cols\) = \(2, 2, 3\), got \(2, 3, 2\)'),
        (torch.full((2, 2, 3), 0.5), r'decisions must be 0 \(fine\) or 1 \(coarse\), got \[0.5\]'),
        (torch.full((2, 2, 3), float('nan')), r'decisions must be 0 \(fine\) or 1 \(coarse\), got \[nan'),
    ],
    ids=['shape', 'half', 'NaN'],
)
def test_wrong_decisions(make_msvit, decisions, message):
    with pytest.raises(ValueError, match=message):
        make_msvit()(torch.zeros(2, 3, 64, 96), decisions)


@pytest.mark.parametrize('execution', TEST)
def test_token_budget_decides_in_evaluation_alone(make_msvit, execution):
    images = random_images()
    _, gate = make_msvit(test_execution=execution).double().forward_gated(images)
    model = make_msvit(test_execution=execution, token_budget=21).double()
    features, budgeted = model.forward_gated(images)
    assert torch.equal(budgeted.gate_logits, gate.gate_logits)
    tiling = Tiling(*images.shape[-2:], (16, 32))
    assert torch.equal(budgeted.decisions, budget_decisions(gate.gate_logits, tiling, 21))
    assert not torch.equal(budgeted.decisions, gate.decisions)
    close(features, model(images, budgeted.decisions))
    assert torch.equal(model.forward_gated(images, gate.decisions)[1].decisions, gate.decisions)
    model.token_budget = 8
    with pytest.raises(ValueError, match='token_budget: wanted at least 9 '):
        model(images)
    model.train()
    _, training = model.forward_gated(images)
    assert torch.equal(training.decisions, threshold(training.gate_values))


@pytest.mark.parametrize('gate', [dict(type='ScaleGate'), dict(type='ScaleGate', frozen=True)])
def test_train_ratios_rank_the_regions_of_each_image(make_msvit, gate):
    model = make_msvit(gate=gate, train_ratios=(0.2, 0.9)).train()
    ratios = []
    for _ in range(20):
        features, output = model.forward_gated(random_images(4, 96, 128, torch.float32))
        ratios += output.decisions.mean((1, 2)).tolist()
        for logits, decisions in zip(output.gate_logits.detach(), output.decisions.bool(), strict=True):
            assert decisions.all() or not decisions.any() or logits[decisions].min() > logits[~decisions].max()
    assert min(ratios) < 0.4 < 0.7 < max(ratios)
    assert min(ratios) >= 0.2 - 1 / 24 and max(ratios) <= 0.9 + 1 / 24
    if model.gate.learnable:
        assert output.counterfactual is not None
        weighted_sum(features).backward()
        assert model.gate.layers[0].weight.grad.any()
    _, output = model.eval().forward_gated(random_images(4, 96, 128, torch.float32))
    assert torch.equal(output.decisions, (output.gate_logits > 0).float())


def test_costs_of_layers_that_differ(make_msvit):
    words = [dict(feedforward_channels=channels) for channels in (32, 128)]
    model = make_msvit(layer_cfgs=words, gate=dict(type='FixedGate', scale='fine'))
    images = torch.rand(1, 3, 64, 96)
    costs = model.forward_gated(images)[1].costs
    assert count_macs(model, images) == costs.total.item()


def test_one_ratio_of_training_is_a_range(make_msvit):
    model = make_msvit(train_ratios=0.5).train()
    _, said = model.forward_gated(torch.rand(2, 3, 64, 96))
    assert said.decisions.mean((1, 2)).tolist() == [0.5, 0.5]
