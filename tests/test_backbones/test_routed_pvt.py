"""The routing space against timm's PVTv2, its two executions against one another, and its cost against a counter."""

import copy
import sys

import pytest
import timm
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch._dynamo.testing import CompileCounter
from torch.nn.parallel import DistributedDataParallel

from msvit_mm.backbones import DynamicTokenRoutingTransformer
from msvit_mm.backbones.pvt import row_sizes
from msvit_mm.checkpoints import rename_keys
from msvit_mm.gates import TokenGate
from msvit_mm.losses import BudgetLoss
from msvit_mm.ops.macs import count_macs

TINY = dict(embed_dims=(8, 16, 40, 64), depths=(1, 2, 1, 1), mlp_ratios=(2, 2, 2, 2))
SIZE = (64, 100)
STAIRCASE = dict(type='FixedRoutes', routes='staircase')


def build(arch=TINY, **words):
    return DynamicTokenRoutingTransformer(arch, img_size=SIZE, drop_path_rate=0.0, **words).eval()


def random_decisions(model, images, density):
    """Random decisions on every edge; the last image of the batch leaves out every second edge."""
    sizes, decisions = row_sizes(images.shape[-2:]), {}
    for n, edge in enumerate(model.gate.edges):
        size = sizes[edge[1] + (edge[0] == 'merge')]
        decisions[edge] = (torch.rand(len(images), *size) < density).float()
        if n % 2:
            decisions[edge][-1] = 0
    return decisions


def run(model, execution, images, decisions=None):
    model.test_execution = execution
    with torch.no_grad():
        return model.forward_gated(images, decisions)


def check_same(maps, wanted, tolerance=1e-5):
    assert len(maps) == len(wanted)
    for x, y in zip(maps, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope='module')
def pvt(perturb):
    """timm's PVTv2-b0, no parameter at a special value, and its weights under this package's names."""
    torch.manual_seed(0)
    source = perturb(timm.create_model('pvt_v2_b0', num_classes=0), std=0.05).eval()
    return source, rename_keys(source.state_dict()).state_dict


# PVTv2


@pytest.mark.parametrize('execution', ['masked', 'sparse'])
@pytest.mark.parametrize(
    'words',
    [
        dict(),
        dict(num_stages=4),
        dict(row_stop=True),
        dict(num_stages=4, merge='select'),
    ],
    ids=str,
)
def test_staircase_is_pvt(pvt, perturb, words, execution):
    source, weights = pvt
    model = perturb(build('b0', gate=STAIRCASE, **words))
    model.load_state_dict(weights, strict=False)
    images = torch.randn(2, 3, *SIZE)
    maps, output = run(model, execution, images)
    with torch.no_grad():
        wanted = source.forward_intermediates(images, intermediates_only=True)
    check_same(maps, wanted)
    assert output.costs.total.tolist() == [output.costs.reference] * 2


def test_plain_pvt_has_no_further_weight_and_its_cost(pvt):
    source, weights = pvt
    model = build('b0', num_stages=4, extra_depth=0, merge='none', gate=dict(type='FixedRoutes'))
    assert set(model.state_dict()) == set(weights)
    images = torch.randn(1, 3, *SIZE)
    _, output = run(model, 'sparse', images)
    with torch.no_grad():
        assert output.costs.total.item() == output.costs.reference == count_macs(source, images)


@pytest.mark.parametrize('gate', ['open', 'staircase'])
def test_further_nodes_begin_as_no_ops(pvt, gate):
    source, weights = pvt
    model = build('b0', init='pvtv2', gate=dict(type='FixedRoutes', routes=gate))
    model.load_state_dict(weights, strict=False)
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        check_same(run(model, 'masked', images)[0], source.forward_intermediates(images, intermediates_only=True))


@pytest.mark.parametrize(
    ('arch', 'gmacs', 'open_5', 'open_4'),
    [
        ('b0', 0.57, 1.402, 1.101),
        ('b1', 2.12, 5.242, 4.101),
        ('b2', 4.05, 7.160, 6.019),
        ('b3', 6.92, 10.031, 8.889),
        ('b4', 10.14, 13.234, 12.093),
        ('b5', 11.76, 14.091, 13.167),
    ],
)
def test_cost_of_the_architectures(arch, gmacs, open_5, open_4):
    """timm's table of PVTv2 (224x224, rounded there), and the routing space with everything open."""
    with torch.device('meta'):
        models = [DynamicTokenRoutingTransformer(arch, num_stages=s, gate=dict(type='FixedRoutes')) for s in (5, 4)]
    for model, wanted in zip(models, (open_5, open_4), strict=True):
        table, sizes = model.cost_table((224, 224)), row_sizes((224, 224))
        assert table.reference / 1e9 == pytest.approx(gmacs, rel=0.01)
        macs = table.embedding
        for (kind, i, _), (static, per_token) in table.edges.items():
            rows, cols = sizes[i + (kind == 'merge')]
            macs += static + per_token * rows * cols
        # the reference counts the learned gate
        learned = sum(dims * sizes[i][0] * sizes[i][1] for (_, i, _), dims in model.gate.edges.items())
        assert (macs + learned) / 1e9 == pytest.approx(wanted, abs=1e-3)


# Executions


def test_closed_tokens_stay_as_they_are(perturb):
    model = perturb(build())
    tokens, size = torch.randn(2, 35, 16), (5, 7)
    gate = (torch.rand(2, 35) < 0.4).float()
    for execution in model.test_executions:
        model.test_execution = execution
        after = model._transform(1, 1, tokens, gate, size)
        assert torch.equal((after != tokens).any(-1), gate.bool())
    target = torch.randn(2, 12, 40)
    gate = (torch.rand(2, 12) < 0.4).float()
    for execution in model.test_executions:
        model.test_execution = execution
        after = model._merge(1, 3, tokens, target, gate, [size, (3, 4)])
        assert torch.equal((after != target).any(-1), gate.bool())


@pytest.mark.parametrize('execution', ['masked', 'sparse'])
def test_stopped_rows(perturb, execution):
    images = torch.randn(3, 3, *SIZE)
    model = perturb(build(row_stop=True))
    decisions = random_decisions(model, images, 0.5)
    decisions['row', 1, 2][0] = 0
    _, output = run(model, execution, images, decisions)
    assert not output.decisions['row', 1, 3][0].any() and not output.decisions['row', 1, 4][0].any()
    assert torch.equal(output.decisions['row', 1, 3][1], decisions['row', 1, 3][1])


@pytest.mark.parametrize(
    'words', [dict(), dict(route_patch=4), dict(row_stop=True), dict(row_weights=(3.0, 1.5, 1.0, 0.5))], ids=str
)
@pytest.mark.parametrize('share', [0.0, 0.3, 0.7, 9.0])
def test_a_cost_budget_is_kept_with_the_most_wanted_tokens(perturb, words, share):
    """On every edge: none that is left out is wanted more, and one more would not have been paid for."""
    model, images = (
        perturb(build(gate=dict(type='RouteGate', initial_ratio=0.5), **words), std=0.1),
        torch.randn(3, 3, 64, 64),
    )
    table = model.budget_table((64, 64))
    free = run(model, 'sparse', images)[1].budgeted
    model.cost_budget = table.floor + share * (free.min().item() - table.floor)
    outputs = [run(model, execution, images)[1] for execution in ('masked', 'sparse')]
    for output in outputs:
        assert (output.budgeted <= model.cost_budget + 1e-9).all()
        left = (model.cost_budget - table.floor) * table.reference - torch.zeros(3)
        alive = torch.ones(4, 3, dtype=torch.bool)
        for edge, opened in output.decisions.items():
            patch = model.patches[edge[1] + (edge[0] == 'merge')]
            opened, values = (x[:, ::patch, ::patch].flatten(1) for x in (opened, output.gate_values[edge]))
            static, per_token = table.edges[edge]
            for n, (is_open, value) in enumerate(zip(opened.bool(), values, strict=True)):
                wanted = (value > 0.5) & (alive[edge[1], n] | (edge[0] == 'merge'))
                assert not (is_open & ~wanted).any()
                spent = static * is_open.any() + patch**2 * per_token * is_open.sum()
                if (out := wanted & ~is_open).any():
                    assert not is_open.any() or value[out].max() <= value[is_open].min()
                    assert spent + patch**2 * per_token + static * (~is_open.any()) > left[n]
                left[n] -= spent
                if edge[0] == 'row' and model.row_stop:
                    alive[edge[1], n] &= is_open.any()
    if share == 9.0:
        torch.testing.assert_close(outputs[0].budgeted, free)
    model.row_stop, given = False, random_decisions(model, images, 1.0)
    assert all(torch.equal(x, given[edge]) for edge, x in run(model, 'sparse', images, given)[1].decisions.items())


def test_weights_of_rows_count_in_budgets_alone(perturb):
    weights, images = (3.0, 1.5, 1.0, 0.5), torch.randn(2, 3, *SIZE)
    gate = dict(type='RouteGate', initial_ratio=0.5)
    model, plain = perturb(build(gate=gate, row_weights=weights), std=0.1), build(gate=gate)
    plain.load_state_dict(model.state_dict())
    (features, output), (others, beside) = (run(x, 'sparse', images) for x in (model, plain))
    torch.testing.assert_close(features, others)
    assert torch.equal(output.costs.total, beside.costs.total)
    assert torch.equal(beside.loss_input(), beside.costs.cost_ratio)
    own = [model.cost_table(SIZE, [float(i == row) for i in range(4)]) for row in range(4)]
    table, counts = model.budget_table(SIZE), {edge: x.flatten(1).sum(1) for edge, x in output.decisions.items()}
    for weight, x in ((weights, table), ((1.0,) * 4, model.cost_table(SIZE))):
        assert x.reference == pytest.approx(sum(w * part.reference for w, part in zip(weight, own, strict=True)))
        assert x.embedding == pytest.approx(sum(w * part.embedding for w, part in zip(weight, own, strict=True)))
    wanted = torch.full((2,), table.embedding + table.gate, dtype=torch.float64)
    for edge, (static, per_token) in model.cost_table(SIZE).edges.items():
        weight = weights[edge[1] + (edge[0] == 'merge')]
        wanted += weight * (static * (counts[edge] > 0) + per_token * counts[edge])
    torch.testing.assert_close(output.loss_input(), wanted / table.reference)


# Training


@pytest.mark.parametrize('rate', [0.0, 0.5])
@pytest.mark.parametrize('words', [dict(), dict(route_patch=4), dict(merge='select', with_cp=True)], ids=str)
def test_open_tokens_alone_train_as_all_do(perturb, words, rate):
    """Of one seed features and gradients are those of computing all tokens, also where stages are closed."""
    model = DynamicTokenRoutingTransformer(
        TINY, img_size=SIZE, drop_path_rate=rate, gate=dict(type='FixedRoutes'), **words
    )
    model, images, results = perturb(model).double().train(), torch.randn(4, 3, 64, 96).double(), []
    decisions = {}
    for n, edge in enumerate(model.edges):
        rows, cols = row_sizes((64, 96))[edge[1] + (edge[0] == 'merge')]
        cells = (torch.rand(4, -(-rows // 4), -(-cols // 4)) < 0.5).double() * (n % 4 > 0 or rate > 0)
        decisions[edge] = cells.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :rows, :cols]
    for execution in model.train_executions:
        model.train_execution = execution
        torch.manual_seed(1)
        maps, _ = model.forward_gated(images, decisions)
        sum(x.square().sum() for x in maps).backward()
        results.append([*maps, *(p.grad.clone() for p in model.parameters())])
        model.zero_grad()
    for masked, packed in zip(*results, strict=True):
        torch.testing.assert_close(packed, masked)


@pytest.mark.parametrize('early', [False, True])
def test_an_early_gate_does_not_see_what_stages_made(perturb, early):
    torch.manual_seed(0)
    model, images = build(gate=dict(type='RouteGate', initial_ratio=0.5, early=early)), torch.randn(2, 3, *SIZE)
    perturb(model)
    size, first = row_sizes(SIZE)[0], ('row', 0, 0)
    of_row = [edge for edge in model.edges if edge[1] == 0 and edge != first]
    (_, closed), (_, opened) = (
        run(model, 'sparse', images, {first: torch.full((2, *size), float(value))}) for value in (0, 1)
    )
    same = [torch.equal(closed.gate_values[edge], opened.gate_values[edge]) for edge in of_row]
    assert all(same) if early else not any(same)
    assert all(0 < closed.decisions[edge].mean() < 1 for edge in of_row)


class LeafGate(TokenGate):
    """Logits that depend on nothing."""

    def forward(self, edge, tokens, size):
        if not hasattr(self, 'leaves'):
            self.leaves = {}
        shape = (len(tokens), self.num_decisions(edge, size))
        return self.leaves.setdefault(edge, torch.randn(shape).requires_grad_())

    learnable = True


@pytest.mark.parametrize(('budget', 'sign'), [(0.2, 1), (5.0, -1)])
def test_budget_pulls_every_gate_the_right_way(budget, sign):
    model = build().train()
    model.gate = LeafGate(model.gate.edges)
    _, output = model.forward_gated(torch.randn(2, 3, *SIZE))
    BudgetLoss(budget)(output.costs.cost_ratio)['loss_budget'].backward()
    gradients = torch.cat([leaf.grad.flatten() for leaf in model.gate.leaves.values()])
    assert (gradients * sign > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    'words', [dict(), dict(with_cp=True, row_stop=True), dict(train_execution='counterfactual')], ids=str
)
def test_every_parameter_learns_from_the_task_alone(words):
    model = build(**words).train()
    maps, _ = model.forward_gated(torch.randn(2, 3, *SIZE))
    sum((x * torch.randn_like(x)).sum() for x in maps).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_gates_alone_descend_to_the_budget():
    model = build().train()
    optimizer = torch.optim.Adam(model.gate.parameters(), lr=0.3)
    images, loss = torch.randn(2, 3, 64, 64), BudgetLoss(0.7)
    for _ in range(25):
        optimizer.zero_grad()
        loss(model.forward_gated(images)[1].costs.cost_ratio)['loss_budget'].backward()
        optimizer.step()
    ratios = torch.stack([model.forward_gated(images)[1].costs.cost_ratio.mean() for _ in range(5)])
    assert ratios.mean().item() == pytest.approx(0.7, abs=0.05)


# Hosts


SEGMENTOR = dict(
    type='GatedEncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[60.0] * 3),
    backbone=dict(type='DynamicTokenRoutingTransformer', arch=TINY, img_size=SIZE, drop_path_rate=0.0),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_convs=1, num_classes=3, norm_cfg=None),
    gate_loss=dict(type='BudgetLoss', budget=0.8),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)


def build_segmentor(**words):
    assert DynamicTokenRoutingTransformer.__module__.startswith('msvit_mm')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(copy.deepcopy(SEGMENTOR) | words))


def labelled(num_images, size=SIZE):
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
    labels = [torch.randint(3, (1, *size)) for _ in range(num_images)]
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=meta) for label in labels]
    return torch.randn(num_images, 3, *size), samples


def test_losses_and_statistics():
    model = build_segmentor().train()
    losses = model.loss(*labelled(2))
    assert {name for name in losses if 'loss' in name} == {'decode.loss_ce', 'loss_budget'}
    wanted = (losses['cost_ratio'] - 0.8).square().item()
    assert losses['loss_budget'].item() == pytest.approx(wanted, rel=1e-4)
    assert all(0 <= losses[f'active_s{stride}'] <= 1 for stride in (4, 8, 16, 32))
    assert losses['gmacs'].item() * 1e9 == pytest.approx(
        losses['cost_ratio'].item() * model.backbone.cost_table(SIZE).reference, rel=1e-5
    )
    model.gate_loss.weight = 0.0
    assert model.loss(*labelled(2))['loss_budget'] == 0


def test_warm_up_rests_the_gate():
    model = build_segmentor().train()
    model.gate_phase = 'warmup'
    losses = model.loss(*labelled(2))
    assert losses['loss_budget'] == losses['loss_gate_rest'] == 0
    assert losses['cost_ratio_std'] > 0
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.backbone.gate.parameters())


@pytest.mark.parametrize('test_cfg', [dict(mode='whole'), dict(mode='slide', crop_size=(64, 64), stride=(40, 40))])
def test_predictions_carry_routes_and_costs(perturb, test_cfg):
    model = perturb(build_segmentor(test_cfg=test_cfg)).eval()
    images, samples = labelled(2)
    with torch.no_grad():
        predictions = model.predict(images, samples)
        dispatched = count_macs(model.predict, images[:1], samples[:1])
    for sample in predictions:
        assert [sample.get(f'routes_s{4 * 2**i}').shape for i in range(4)] == row_sizes(SIZE)
        routes, merges = sample.routes_s8.data, sample.merges_s8.data
        assert routes.shape[0] == 5 and merges.shape[0] == 6
        assert routes[0].isnan().all() and not routes[1:].isnan().any() and 0 <= routes[1:].min() <= 1
        assert merges[:2].isnan().all() and not merges[2:].isnan().any()
        assert sample.node_depths['1_1'] == 2
        assert sample.reference_gmacs > 0
    assert predictions[0].gmacs == pytest.approx(dispatched / 1e9, rel=1e-6)


@pytest.mark.parametrize(
    ('words', 'stages', 'columns'),
    [(dict(), 5, 6), (dict(num_stages=4), 4, 5), (dict(extra_depth=0), 5, 6), (dict(merge='none'), 5, None)],
    ids=str,
)
def test_maps_have_a_channel_per_stage_and_column(words, stages, columns):
    model = build(**words)
    _, output = run(model, 'sparse', torch.randn(2, 3, *SIZE))
    sizes, shown = row_sizes(SIZE), set()
    for name, (data, cell, kind) in output.maps().items():
        row = sizes.index(data.shape[-2:])
        assert cell == 4 * 2**row and name == f'{kind}_s{cell}'
        assert data.shape == (2, stages if kind == 'routes' else columns, *sizes[row])
        shown |= {(kind, row, j) for j in range(data.shape[1]) if not data[:, j].isnan().any()}
    assert shown == {('routes', i, j) if kind == 'row' else ('merges', i + 1, j) for kind, i, j in model.edges}


def test_classifier_pools_the_last_row(perturb):
    init_default_scope('mmpretrain')
    words = dict(arch=TINY, img_size=SIZE, out_indices=(3,))
    config = dict(
        type='GatedImageClassifier',
        backbone=dict(type='DynamicTokenRoutingTransformer', **words),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=64),
        gate_loss=dict(type='BudgetLoss', budget=1.0),
    )
    model = perturb(MODELS.build(config)).eval()
    images = torch.randn(2, 3, *SIZE)
    (features,), _ = run(model.backbone, 'sparse', images)
    with torch.no_grad():
        wanted = model.head.fc(features.mean((2, 3))).softmax(1)
        predictions = model.predict(images)
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in predictions]), wanted)
    assert predictions[0].reference_gmacs > 0 and predictions[0].routes_s4.shape == (16, 25)


def run_process(rank: int, folder: str) -> None:
    """Two steps: a parameter that the first leaves unused would stop the second."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    model = DistributedDataParallel(build_segmentor().train())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(rank)
    for phase in ('learn', 'warmup', 'learn'):
        model.module.gate_phase = phase
        losses = model(*labelled(1), mode='loss')
        optimizer.zero_grad()
        model.module.parse_losses(losses)[0].backward()
        optimizer.step()
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.save((weights, losses['loss_budget'].detach()), f'{folder}/{rank}.pt')


@pytest.mark.slow
def test_two_processes_train_as_one(run_in_two_processes, tmp_path):
    run_in_two_processes(__file__)
    (weights, budget), others = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    assert torch.equal(weights, others[0])
    assert budget == others[1]  # of the global batch, not of the process's part


# Bad input


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(arch='b9'), r"arch must be one of 'b0', .*'b5' or a dict, got 'b9'"),
        (dict(arch=dict(embed_dims=(8, 16))), 'arch must give 4 values for each of'),
        (dict(cost_budget='x'), r"cost_budget must lie in \(0, inf\), got 'x'"),
        (dict(num_stages=3), r'num_stages must lie in \[4, inf\), got 3'),
        (dict(extra_depth=-1), r'extra_depth must lie in \[0, inf\), got -1'),
        (dict(merge='max'), "merge must be one of 'add', 'select', 'none', got 'max'"),
        (dict(init='random'), "init must be one of 'pvtv2', 'scratch', got 'random'"),
        (dict(test_execution='packed'), "test_execution must be one of 'masked', 'sparse', got 'packed'"),
        (dict(out_indices=(0, 1)), r'out_indices must be of rows 0 to 3 with 3 among them, got \(0, 1\)'),
        (dict(route_patch=3), 'route_patch must be one of 1, 2, 4, 8, got 3'),
        (dict(row_weights=(1, 2, 3)), r'row_weights must be 4 positive numbers, got \(1, 2, 3\)'),
        (dict(row_weights=(1, 0, 1, 1)), r'row_weights must be 4 positive numbers, got \(1, 0, 1, 1\)'),
        (dict(counterfactual_share=0.0), r'counterfactual_share must lie in \(0, 1\], got 0.0'),
        (dict(train_execution='sparse'), "train_execution must be one of 'masked', 'counterfactual', got 'sparse'"),
        (dict(gate_temperature=0.0), r'gate_temperature must lie in \(0, inf\), got 0.0'),
        (
            dict(gate=dict(type='ScaleGate')),
            'one of FixedRoutes, RandomRoutes, RouteGate, ShuffledRoutes, got .*ScaleGate',
        ),
        (dict(gate=dict(type='RouteGate', initial_ratio=1.0)), r'initial_ratio must lie in \(0, 1\), got 1.0'),
        (dict(gate=dict(type='RandomRoutes', active_ratio=1.5)), r'active_ratio must lie in \[0, 1\].* got 1.5'),
        (dict(gate=dict(type='FixedRoutes', routes='up')), "'open', 'closed', 'staircase', got 'up'"),
    ],
    ids=str,
)
def test_bad_words(words, message):
    with pytest.raises(ValueError, match=message):
        build(**words)


def test_budget_below_the_floor_says_the_floor():
    floor = build().cost_table(SIZE).floor
    with pytest.raises(
        ValueError, match=f'budget must lie above {floor:.3f}, .* for images of 64x100 pixels, got 0.05'
    ):
        build_segmentor(gate_loss=dict(type='BudgetLoss', budget=0.05))
    with pytest.raises(ValueError, match='one that takes cost_ratio, got RatioLoss, which takes gate_values'):
        build_segmentor(gate_loss=dict(type='RatioLoss'))
    _, output = run(build(gate=dict(type='FixedRoutes', routes='closed')), 'sparse', torch.randn(1, 3, *SIZE))
    gate_macs = build().cost_table(SIZE).gate  # which fixed routes have not
    assert floor == pytest.approx((output.costs.total.item() + gate_macs) / output.costs.reference)

    model = build(cost_budget=0.05)
    with pytest.raises(
        ValueError, match=f'cost_budget: wanted at least {floor:.3f}, .* for images of 64x100 pixels, got 0.05'
    ):
        model(torch.randn(1, 3, *SIZE))
    model.train()(torch.randn(1, 3, *SIZE))  # at prediction alone


def test_patches_that_do_not_divide_a_row():
    message = 'route_patch=2: wanted 2x2 tokens to divide row 0, got 16x25 tokens of images of 64x100 pixels'
    model, images = build(route_patch=2), torch.randn(1, 3, *SIZE)
    for call in (lambda: model(images), lambda: model.dense_decisions(images), lambda: model.cost_table(SIZE)):
        with pytest.raises(ValueError, match=message):
            call()
    given = torch.ones(1, 16, 24)
    given[0, 3, 5] = 0
    with pytest.raises(ValueError, match=r"on edge \('row', 0, 0\): decisions must be the same within 2x2 tokens"):
        model(torch.randn(1, 3, 64, 96), {('row', 0, 0): given})


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (torch.zeros(1, 4, 64, 64), r'shape \(B, 3, H, W\)'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), 'images must be floating point'),
        (torch.zeros(1, 3, 28, 64), 'large enough for one key .* got 28x64 pixels'),
        (torch.full((1, 3, 64, 64), torch.nan), r'got NaN or infinity in image\(s\) \[0\]'),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=message):
        build()(images)


@pytest.mark.parametrize(
    ('edge', 'decisions', 'message'),
    [
        (('row', 1, 0), torch.zeros(1, 8, 13), 'decisions must be on edges of this routing space'),
        (('row', 1, 1), torch.zeros(1, 13, 8), r"on edge \('row', 1, 1\): .* = \(1, 8, 13\), got \(1, 13, 8\)"),
        (('row', 1, 1), torch.full((1, 8, 13), 0.5), r'decisions must be 0 \(closed\) or 1 \(open\), got \[0.5\]'),
    ],
)
def test_bad_decisions(edge, decisions, message):
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(1, 3, *SIZE), {edge: decisions})


if __name__ == '__main__':
    run_process(int(sys.argv[1]), sys.argv[2])


def test_compilation_leaves_the_routes_as_they_are():
    """Every edge would be compiled apart, for minutes, until dynamo gives up."""
    torch._dynamo.reset()
    model, counter, images = build(route_patch=4), CompileCounter(), torch.rand(2, 3, 64, 96)
    compiled = torch.compile(model, backend=counter)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))
    torch._dynamo.reset()
    assert counter.frame_count <= 2


def test_costs_of_stated_routes_stop_where_a_row_does(perturb):
    model = perturb(build(row_stop=True)).eval()
    images = torch.rand(2, 3, *SIZE)
    decisions = model.random_decisions(0.6, images)
    decisions[min(edge for edge in decisions if edge[0] == 'row')][0] = 0  # an image whose first row stops at once
    executed = model.forward_gated(images, decisions)[1].costs.total
    torch.testing.assert_close(model.costs_of(decisions, SIZE).total, executed)
