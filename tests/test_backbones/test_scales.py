"""Trees of three scales: what the laws of tests/conformance do not say of them. There they are the same law for law."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample

from msvit_mm.backbones.extended_vit import ExtendedViT
from msvit_mm.engine.calibration import asked_ratios, calibrate_gate
from msvit_mm.evaluation import ComplexityMetric
from msvit_mm.export import make_engines
from msvit_mm.gates import NestedGate
from msvit_mm.losses import NestedGateLoss
from msvit_mm.ops.tiling import Tiling, active_slots, map_scales, other_slots, reached_nodes, reached_ratios
from msvit_mm.studies.sweep import setting_of
from msvit_mm.visualization import draw_choices, draw_panel, draw_scale_map, legend_of
from msvit_mm.visualization.scale_map import BETWEEN, COARSE, FINE

SIDES = (8, 16, 32)


@pytest.fixture
def make_scales(make_msvit):
    def make(gate=None, **words):
        return make_msvit(gate or dict(type='ScaleGate', initial_ratio=0.5, sample_size=8), patch_sizes=SIDES, **words)

    return make


@pytest.fixture
def make_segmentor(tiny_arch, perturb):
    def make(**words):
        gate = dict(type='ScaleGate', initial_ratio=0.5, sample_size=8)
        backbone = dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), patch_size=8, coarse_patch_size=16, gate=gate)
        config = dict(
            type='GatedEncoderDecoder',
            backbone=backbone | words.pop('backbone', dict(patch_sizes=SIDES)),
            decode_head=dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3),
            gate_loss=dict(type='BatchShapingLoss', coarse_ratio=0.5),
            data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[60.0] * 3, size=(64, 96)),
            test_cfg=dict(mode='whole'),
        )
        return perturb(MODELS.build(ConfigDict(config | words))).eval()

    return make


def make_batch(count=2, size=(64, 96)):
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for _ in range(count)]
    labels = [torch.randint(3, (1, *size), generator=generator) for _ in range(count)]
    meta = dict(img_shape=size, ori_shape=size)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=x), metainfo=meta) for x in labels]
    return dict(inputs=images, data_samples=samples)


def random_trees(tiling, batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple((torch.rand(batch, x.rows, x.cols, generator=generator) < 0.5).float() for x in tiling.scales[:-1])


@pytest.mark.parametrize('words', [{}, dict(rope=dict(temperature=100.0), num_registers=2)], ids=['added', 'rotary'])
def test_all_whole_is_the_host_on_the_shrunk_image(make_scales, tiny_arch, words):
    """With the mean positions of the cells, in double precision."""
    model = make_scales(**words).double()
    host = ExtendedViT(arch=tiny_arch, img_size=(16, 24), patch_size=8, out_type='featmap', **words).double()
    state = {name: x for name, x in model.state_dict().items() if not name.startswith('gate.')}
    if not words:
        positions = state['pos_embed'][:, 1:].unflatten(1, (8, 12)).permute(0, 3, 1, 2)
        means = F.avg_pool2d(positions, 4).flatten(2).mT
        state['pos_embed'] = torch.cat([state['pos_embed'][:, :1], means], dim=1)
    host.load_state_dict(state)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    host.eval()  # returns nothing
    with torch.no_grad():
        (wanted,) = host(F.avg_pool2d(images, 4))
        whole = map_scales(torch.ones_like, model.dense_decisions(images))
        (features,) = model(images, whole)
    torch.testing.assert_close(features, wanted.repeat_interleave(4, 2).repeat_interleave(4, 3), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('parts', [{}, dict(coarse_embedding='own', detail=dict(hidden_dims=8))], ids=['plain', 'own'])
def test_two_scales_are_the_same_by_either_spelling(make_segmentor, parts):
    """Bit for bit, in training: keys, losses of task and gate, gradients, and features afterwards."""
    found = []
    for words in (dict(patch_size=16, coarse_patch_size=32), dict(patch_sizes=(16, 32))):
        torch.manual_seed(1)
        model = make_segmentor(backbone=words | parts).train()
        losses = model.loss(**model.data_preprocessor(make_batch(), training=True))
        sum(x.sum() for name, x in losses.items() if 'loss' in name).backward()
        gradients = {f'gradient of {name}': p.grad for name, p in model.named_parameters()}
        with torch.no_grad():
            (features,) = model.eval().backbone(torch.randn(2, 3, 64, 96))
        found.append(model.state_dict() | losses | gradients | dict(features=features))
    first, second = found
    assert list(first) == list(second) and 'loss_gate_prior' in first
    assert all(torch.equal(x, second[name]) for name, x in first.items())


def test_train_ratios_rank_the_nodes_of_each_scale(make_scales):
    """The share that an image draws holds for both; whatever is coarse has the higher logit."""
    model = make_scales(train_ratios=(0.2, 0.9)).train()
    _, choices = model.forward_gated(torch.randn(8, 3, 64, 96))
    for logits, decisions in zip(choices.gate_logits, choices.decisions, strict=True):
        for own, coarse in zip(logits.detach(), decisions.bool(), strict=True):
            assert coarse.all() or own[coarse].min() > own[~coarse].max()
    regions, nodes = (x.mean((1, 2)) for x in choices.decisions)
    assert ((regions - nodes).abs() <= 1 / 12 + 1 / 48 + 1e-6).all()  # half of a region, and of a node, is rounded
    assert nodes.min() >= 0.2 - 1 / 48 and nodes.max() <= 0.9 + 1 / 48 and nodes.max() - nodes.min() > 0.2


def test_sweeps_set_all_scales(make_scales):
    """A budget bounds the tokens; random nodes and those without edges have the share at each scale."""
    model, images = make_scales(), torch.randn(4, 3, 64, 96)
    images[..., :48] = 0
    for kind, value in (('budgets', 40), ('random', 0.25), ('edges', 0.25), ('edges', 0.5)):
        with torch.no_grad(), model.configured(**setting_of(dict(kind=kind, value=value), model)):
            _, choices = model.forward_gated(images)
        if kind == 'budgets':
            assert choices.num_tokens.tolist() == [39] * 4  # 6 and 3 for each split
            continue
        shares = [x.sum((1, 2)) - value * x[0].numel() for x in choices.decisions]
        assert all((x.abs() <= (1 if kind == 'random' else 0.5)).all() for x in shares)
        if kind == 'edges':
            assert not choices.decisions[1][..., 3:].any()


def test_tokens_are_regions_and_three_for_each_split(make_scales):
    model, images = make_scales(), torch.randn(4, 3, 64, 96)
    tiling = model.tile((64, 96))
    regions, nodes = random_trees(tiling)
    reached = 1 - regions.repeat_interleave(2, 1).repeat_interleave(2, 2)
    splits = (1 - regions).sum((1, 2)) + (reached * (1 - nodes)).sum((1, 2))
    with torch.no_grad():
        _, choices = model.forward_gated(images, (regions, nodes))
    assert choices.num_tokens.tolist() == (tiling.num_regions + 3 * splits).tolist()
    ratios = [regions.mean(), (reached * nodes).sum() / reached.sum()]
    torch.testing.assert_close(torch.stack(reached_ratios((regions, nodes), (32, 16))), torch.stack(ratios))


@pytest.mark.parametrize('size', [(16, 96), (64, 40)])  # nodes of 8 pixels: 2 and 5 across, of regions 1 and 2
def test_nodes_are_reached_where_borders_cut_regions(size):
    """Of nodes a quarter as wide as regions; by the candidates that are active."""
    tiling = Tiling(*size, (4, 8, 32))
    maps = random_trees(tiling)
    nodes = active_slots(maps, tiling)[..., 1:17] | active_slots((maps[0], 1 - maps[1]), tiling)[..., 1:17]
    _, reached = reached_nodes(maps, (32, 8))
    assert torch.equal(reached.sum((1, 2)).long(), nodes.sum((1, 2)))
    assert (
        reached.shape == maps[1].shape and reached_ratios(maps, (32, 8))[1] == (reached * maps[1]).sum() / reached.sum()
    )


def test_what_nodes_would_be_otherwise_is_what_a_swap_makes_active(make_scales):
    """All further tokens are those that some single swap of a decision makes active."""
    tiling = make_scales().tile((70, 91))
    maps = random_trees(tiling, batch=1)
    active, union = active_slots(maps, tiling), torch.zeros_like(active_slots(maps, tiling))
    for i, own in enumerate(maps):
        for place in range(own.numel()):
            swapped = [x.clone() for x in maps]
            swapped[i].view(-1)[place] = 1 - swapped[i].view(-1)[place]
            union |= active_slots(tuple(swapped), tiling)
    assert torch.equal(other_slots(maps, tiling), union & ~active)


def test_identical_pixels_embed_alike_in_any_tree(make_scales):
    model = make_scales(with_cls_token=False)
    torch.nn.init.zeros_(model.pos_embed)
    images = torch.randn(1, 3, 1, 1).expand(4, 3, 64, 96)
    with torch.no_grad():
        (features,) = model(images, random_trees(model.tile((64, 96))))
    torch.testing.assert_close(features, features[:1, :, :1, :1].expand_as(features))


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(patch_sizes=(16, 24)), r'patch sizes must be whole pixels, at least two, .* got \(16, 24\)'),
        (dict(patch_sizes=(8, 16, 24)), r'got \(8, 16, 24\)'),
        (dict(patch_sizes=(16,)), r'got \(16,\)'),
        (dict(patch_sizes=(32, 16)), r'got \(32, 16\)'),
        (dict(patch_sizes=(0, 16, 32)), r'patch sizes must .* got \(0, 16, 32\)'),
        (dict(patch_sizes=(-16, 32)), r'patch sizes must .* got \(-16, 32\)'),
        (dict(patch_sizes=(16.0, 32.0)), r'patch sizes must .* got \(16.0, 32.0\)'),
        (dict(patch_sizes=(16, '32')), r"patch sizes must .* got \(16, '32'\)"),
        (dict(patch_sizes=32), r'patch sizes must .* got \(32,\)'),
        (dict(patch_sizes=SIDES, gate=dict(type='NestedGate', gates=[dict(type='EdgeGate')])), 'gates: wanted 2, for'),
        (dict(patch_sizes=SIDES, gate=dict(type='SharedScaleGate', sample_size=32)), 'sample_size must divide the sm'),
    ],
)
def test_wrong_words(make_msvit, words, message):
    with pytest.raises(ValueError, match=message):
        make_msvit(**words)


def test_wrong_decisions_and_forms(make_scales, make_msvit, make_segmentor):
    model, images = make_scales(), torch.zeros(1, 3, 64, 96)
    with pytest.raises(ValueError, match=r'decisions must be 2 maps \(B, rows, cols\), .* got 1'):
        model(images, torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r'export: wanted patch sizes of one factor, .* got \(4, 16, 32\)'):
        make_msvit(dict(type='EdgeGate'), patch_size=4, patch_sizes=(4, 16, 32)).static((64, 96), 20)
    with pytest.raises(ValueError, match=r'losses: wanted 2, .* got 1'):
        make_segmentor(gate_loss=dict(type='NestedGateLoss', losses=[dict(type='RatioLoss')]))
    with pytest.raises(ValueError, match='gate_loss: wanted the one of two scales, got NestedGateLoss'):
        make_msvit(dict(type='ScaleGate')).build_gate_loss(dict(type='NestedGateLoss', losses=[dict(type='RatioLoss')]))
    with pytest.raises(TypeError, match='extremes'):
        make_scales(dict(type='ScaleGate', extremes=1.0))


def test_the_gate_alone_counts_the_nodes_that_it_splits(make_segmentor):
    """Those that are reached: a network of as many splits, by a budget of their tokens, has the gate's own tree."""
    model, images = make_segmentor(), torch.randn(3, 3, 64, 96)
    _, gate = make_engines(model, (64, 96), [20], with_gate=True)
    assert gate.outputs == ('gate_logits_32', 'gate_logits_16', 'num_fine')
    with torch.no_grad():
        *gate_logits, num_fine = gate.network(images)
        _, own = model.backbone.forward_gated(images)
        assert all(map(torch.equal, gate_logits, own.gate_logits))
        assert torch.equal(own.num_tokens, 6 + 3 * num_fine) and len(num_fine.unique()) > 1
        for image, wanted, splits in zip(images.split(1), own.num_tokens, num_fine, strict=True):
            (engine,) = make_engines(model, (64, 96), [wanted.item()], backbone=True)
            assert engine.num_fine == splits
            torch.testing.assert_close(engine.network(image), model.backbone(image), rtol=1e-4, atol=1e-4)


def test_one_gate_for_each_scale_or_one_for_all(make_scales):
    """Both say the same of nodes that look the same; a scale's own gate costs as in a network of two scales."""
    image = torch.randn(1, 3, 8, 8)
    large = image.repeat_interleave(4, 2).repeat_interleave(4, 3).repeat(1, 1, 2, 3)  # each region is the image
    small = image.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat(1, 1, 4, 6)  # each node within is
    shared = make_scales(dict(type='SharedScaleGate', initial_ratio=0.3)).gate
    shared.scale_biases.data.copy_(torch.tensor([0.0, 1.0]))
    flat = torch.ones(1, 3, 64, 96)
    regions, nodes = shared(flat)
    torch.testing.assert_close(nodes, regions.mean().expand_as(nodes) + 1)
    assert regions.shape == (1, 2, 3) and nodes.shape == (1, 4, 6)
    model = make_scales()
    own, other = model.gate.gates
    other.load_state_dict(own.state_dict())
    for gate, bias in ((shared, 1), (model.gate, 0)):
        logit = gate(large)[0][0, 0, 0]
        torch.testing.assert_close(gate(large)[0], logit.expand(1, 2, 3))
        torch.testing.assert_close(gate(small)[1], (logit + bias).expand(1, 4, 6))
    per_node = model.gate.gates[0].macs_per_region()
    assert model.gate.macs(model.tile((64, 96))) == per_node * (6 + 24)
    assert [gate.coarse_patch_size for gate in model.gate.gates] == [32, 16]


def test_extremes_hold_for_all_scales_together(make_scales):
    gate = make_scales(dict(type='RandomGate', coarse_ratio=0.5, extremes=1.0)).gate
    assert isinstance(gate, NestedGate)
    seen = {tuple(bool((x > 0).all()) for x in gate(torch.zeros(2, 3, 64, 96))) for _ in range(20)}
    assert seen == {(True, True), (False, False)}


def test_random_stand_ins_have_as_many_tokens(make_scales):
    """On average, though the gate splits nodes where it splits those around them."""
    model, images = make_scales(), torch.zeros(300, 3, 64, 96)
    ratios = dict(coarse_ratio=0.6, coarse_ratio_32=0.5, coarse_ratio_16=0.25)
    with model.configured(gate=model.stand_ins(ratios)['random']), torch.no_grad():
        decisions = model.draw_decisions(model.gate, images)
    tokens = model.costs_of(decisions, (64, 96)).num_tokens[0].float().mean()
    assert abs(tokens - 6 * (0.5 + 0.5 * 4 * (0.25 + 0.75 * 4))) < 1


def test_a_loss_for_each_scale(make_segmentor):
    model = make_segmentor()
    large, small = model.gate_loss.losses
    assert (large.grid_size, small.grid_size) == ((2, 3), (4, 6))
    values = torch.rand(16, 2, 3), torch.rand(16, 4, 6)
    losses = model.gate_loss(values)
    for name in losses:
        torch.testing.assert_close(losses[name], large(values[0])[name] + small(values[1])[name])
    model.gate_loss.weight = 3.0
    assert model.gate_loss.weight == large.weight == small.weight == 3.0
    with pytest.raises(ValueError, match=r'gate values: wanted 2 maps .* got 1'):
        model.gate_loss(values[0])
    each = [dict(type='BatchShapingLoss', coarse_ratio=0.7), dict(type='RatioLoss', coarse_ratio=0.3)]
    assert make_segmentor(gate_loss=dict(type='NestedGateLoss', losses=each)).gate_loss.coarse_ratios == (0.7, 0.3)


def test_losses_of_two_kinds_keep_all_that_they_say():
    shaping, ratio = (MODELS.build(dict(type=x, grid_size=(2, 3))) for x in ('BatchShapingLoss', 'RatioLoss'))
    values = torch.rand(16, 2, 3)
    for pair in ((shaping, ratio), (ratio, shaping)):
        assert NestedGateLoss(pair)((values, values)) == shaping(values) | ratio(values)
    ratio.weight = 5.0
    with pytest.raises(ValueError, match=r'losses: wanted one weight, .* got \[1.0, 5.0\]'):
        NestedGateLoss((shaping, ratio))


def test_the_ratios_that_losses_ask_for(make_segmentor):
    """The gate loss's, or where one of its scales has none those of the utility loss."""
    none, utility = dict(type='BetaShapingLoss'), dict(type='UtilityGateLoss', coarse_ratio=0.6)
    some = dict(type='NestedGateLoss', losses=[dict(type='RatioLoss', coarse_ratio=0.7), none])
    two = dict(patch_size=16, coarse_patch_size=32)
    for words, ratios in (
        (dict(), (0.5, 0.5)),
        (dict(backbone=two), (0.5,)),
        (dict(gate_loss=none), ()),
        (dict(gate_loss=some), ()),
        (dict(gate_loss=some, utility_loss=utility), (0.6, 0.6)),
        (dict(gate_loss=None, utility_loss=utility, backbone=two), (0.6,)),
    ):
        assert asked_ratios(make_segmentor(**words)) == ratios


def test_a_checkpoint_of_two_scales_starts_three(make_segmentor):
    """The gate and its priors are taken for every scale; the dense network is the same."""
    two, three = make_segmentor(backbone={}), make_segmentor()
    missing, unexpected = three.load_state_dict(two.state_dict(), strict=False)
    assert missing == [] and unexpected == []
    for i in range(2):
        for name, x in two.backbone.gate.state_dict().items():
            assert torch.equal(three.backbone.gate.gates[i].state_dict()[name], x)
        assert three.gate_loss.losses[i].mean_logits.isfinite().all()
    assert torch.equal(three.gate_loss.losses[1].mean_logits, two.gate_loss.mean_logits)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        wanted, features = (x.backbone(images, x.backbone.dense_decisions(images))[0] for x in (two, three))
    torch.testing.assert_close(features, wanted)


def test_coarse_pixels_and_detail_of_two_scales_start_three(make_segmentor, perturb):
    """Where shapes fit: what embeds nodes of 32 pixels, which two scales had not, is zero."""
    parts = dict(coarse_embedding='own', detail=dict(hidden_dims=8))
    two, three = perturb(make_segmentor(backbone=parts)), make_segmentor(backbone=dict(patch_sizes=SIDES, **parts))
    for x in three.backbone.coarse_pixels.parameters():
        torch.nn.init.zeros_(x)
    missing, unexpected = three.load_state_dict(two.state_dict(), strict=False)
    assert missing == [] and unexpected == []
    large, small = three.backbone.coarse_pixels
    assert not large.weight.any() and torch.equal(small.weight, two.backbone.coarse_pixels.weight)
    images, nodes = torch.randn(2, 3, 64, 96), torch.randint(2, (2, 4, 6)).float()
    with torch.no_grad():
        (wanted,), (features,) = two.backbone(images, nodes), three.backbone(images, (torch.zeros(2, 2, 3), nodes))
    torch.testing.assert_close(features, wanted)


def test_a_segmentor_trains_and_tells_its_ratios(make_segmentor):
    model = make_segmentor(boundary_loss=dict(type='BoundaryGateLoss')).train()
    batch = model.data_preprocessor(make_batch(), training=True)
    losses = model.loss(**batch)
    assert {'coarse_ratio_32', 'coarse_ratio_16', 'loss_gate_prior', 'loss_gate_boundary'} <= set(losses)
    sum(x.mean() for name, x in losses.items() if 'loss' in name).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.backbone.gate.parameters())
    model.gate_phase = 'warmup'
    assert not model.loss(**batch)['loss_gate_prior']


@pytest.mark.parametrize('parts', [{}, dict(coarse_embedding='own', detail=dict(hidden_dims=8))])
def test_a_swap_is_what_the_other_decision_would_show(make_segmentor, parts):
    """Of one node alone, against the features of a pass in which it is decided otherwise, where no attention mixes."""
    backbone = make_segmentor(backbone=dict(patch_sizes=SIDES, with_cls_token=False, **parts)).backbone.train()
    backbone.counterfactual_share = 1.0
    for layer in backbone.layers:
        torch.nn.init.zeros_(layer.attn.proj.weight)
    images, trees = torch.randn(1, 3, 64, 96), random_trees(backbone.tile((64, 96)), batch=1)
    with backbone.configured(gate=backbone.state_decisions(trees)):
        choices = backbone.forward_gated(images)[1]
    counterfactual = choices.counterfactual
    assert [x.sum() for x in counterfactual.drawn] == [6, 4 * (1 - trees[0]).sum()]
    for scale in range(2):
        for row, col in counterfactual.drawn[scale][0].nonzero().tolist():
            one = torch.zeros_like(counterfactual.drawn[scale])
            one[0, row, col] = True
            other = [torch.where(one, 1 - x, x) if i == scale else x for i, x in enumerate(trees)]
            torch.testing.assert_close(counterfactual.swap_scale(scale, one), backbone(images, tuple(other)))


def test_utilities_of_each_scale(make_segmentor, monkeypatch):
    model = make_segmentor(utility_loss=dict(type='UtilityGateLoss', coarse_ratio=0.5)).train()
    batch, seen = model.data_preprocessor(make_batch(), training=True), []
    find = model._utilities
    monkeypatch.setattr(model, '_utilities', lambda *words: seen.append(find(*words)) or seen[-1])
    losses = model.loss(**batch)
    ((wins, drawn),) = seen
    assert [x.shape for x in wins] == [(2, 2, 3), (2, 4, 6)]
    assert all(x[known].abs().min() > 0 for x, known in zip(wins, drawn, strict=True))
    assert all(x.quantile != 0 for x in model.utility_loss)
    losses['loss_gate_utility'].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.backbone.gate.parameters())
    whole = model.backbone.state_decisions(map_scales(torch.ones_like, wins))
    with model.backbone.configured(gate=whole):  # no smaller node is reached
        assert model.loss(**batch)['loss_gate_utility'].isfinite()
    assert not seen[-1][1][1].any()


def test_calibrated_by_tokens(make_segmentor):
    model = make_segmentor()
    batches = [make_batch(1, (70, 91)), make_batch(1)]
    report = calibrate_gate(model, batches, 'num_tokens', 60)
    assert abs(report['after']['num_tokens'] - 60) < 4 < abs(report['before']['num_tokens'] - 60)
    metric = ComplexityMetric()
    for batch in batches:
        batch = model.data_preprocessor(batch)
        metric.process({}, [x.to_dict() for x in model.predict(batch['inputs'], batch['data_samples'])])
    found = metric.evaluate(size=2)
    assert found['num_tokens'] == report['after']['num_tokens']
    assert found['coarse_ratio'] == pytest.approx(report['after']['coarse_ratio'])
    assert 0 <= found['coarse_ratio_16'] <= 1


def test_predictions_are_drawn_in_three_tones(make_segmentor):
    model = make_segmentor()
    batch = model.data_preprocessor(make_batch(1))
    (sample,) = model.predict(batch['inputs'], batch['data_samples'])
    assert isinstance(sample, BaseDataElement)
    kinds = {name: cell for name, (kind, cell) in sample.choice_maps.items() if kind == 'scale'}
    assert kinds == dict(scale_map_32=32, scale_map_16=16)
    image = np.zeros((64, 96, 3), np.uint8)
    maps = [torch.tensor([[1.0, 0, 0], [0, 0, 1]]), torch.tensor([[0.0, 0, 1, 0, 1, 1]] * 4)]
    for name, own in zip(kinds, maps, strict=True):
        sample.get(name).data = own[None]
    drawn = draw_scale_map(image, [own.numpy() for own in maps], [32, 16], 8)
    assert np.array_equal(draw_panel(image, sample)[0], drawn)
    assert np.array_equal(draw_choices(image, sample, 'photo').axes[0].get_images()[0].get_array(), drawn)
    legend = {name: colour.tolist() for name, colour in legend_of(sample).items()}
    wanted = {'token of 32': COARSE, 'token of 16': BETWEEN, 'token of 8': FINE}
    assert legend == {name: colour.tolist() for name, colour in wanted.items()}
    assert {(0, 0, 0), *map(tuple, legend.values())} == set(map(tuple, drawn.reshape(-1, 3).tolist()))
