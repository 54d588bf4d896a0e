"""Steps that merge tokens: which ones they merge, what is conserved, and what is refused."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer

from msvit_mm.backbones.layers import PackedSequences, PretrainLayer, Stream, run_layers
from msvit_mm.backbones.merging import Bipartite, MergeStep, MutualPairs
from msvit_mm.gates import registered
from msvit_mm.models.heads import MixedScaleMaskTransformerHead
from msvit_mm.ops.macs import count_macs
from msvit_mm.ops.tiling import Tiling, cell_slots

ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)
SIZE = (70, 90)
STEPS = [MutualPairs(before=(1,)), MutualPairs(before=(1,), min_similarity=0.2), Bipartite(before=(1,), share=0.3)]
every_step = pytest.mark.parametrize('step', STEPS, ids=['mutual', 'similar', 'bipartite'])


def images(batch=3):
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def make_merging(make_msvit):
    def make(merge=None, **options):
        return make_msvit(arch=ARCH, merge=merge, **options).double()

    return make


@every_step
@pytest.mark.parametrize('length', [1, 2, 5, 8])
def test_pairs_are_those_that_loops_find(step, length):
    keys = F.normalize(torch.randn(3, length, 4, dtype=torch.float64), dim=-1)
    for row, stands in zip(keys, step.match(keys).tolist(), strict=True):
        similarity = (row @ row.T).tolist()
        wanted = list(range(length))
        if isinstance(step, MutualPairs):
            others = [[j for j in range(length) if j != i] for i in range(length)]
            nearest = [max(o, key=lambda j, i=i: similarity[i][j], default=i) for i, o in enumerate(others)]
            for i, j in enumerate(nearest):
                if nearest[j] == i and (step.min_similarity is None or similarity[i][j] >= step.min_similarity):
                    wanted[i] = min(i, j)
        elif length > 1:
            odd = range(1, length, 2)
            best = sorted(range(0, length, 2), key=lambda i: -max(similarity[i][j] for j in odd))
            for i in best[: int(0.3 * length)]:
                wanted[i] = max(odd, key=lambda j, i=i: similarity[i][j])
        assert stands == wanted
        assert [stands[i] for i in stands] == stands


@every_step
@pytest.mark.parametrize('host_norm', [False, True])
def test_steps_conserve_cells_and_leave_class_tokens_alone(make_merging, step, host_norm):
    """Cells add up, tokens at most halve, every cell has one token, and no two images share one."""
    seen = []

    def spy(index, active, keys):
        seen.append((active.sequences, active.count_cells(), active.count_tokens()))
        return active

    model = make_merging(dict(type='MutualPairs', before=(1, 3)), final_norm=host_norm)
    own = Bipartite(before=(1, 3), share=0.3, num_extra_tokens=1) if isinstance(step, Bipartite) else model.between[0]
    model.between = (own, spy)
    (features,), choices = model.forward_gated(images())
    cells = Tiling(*SIZE, (16, 32)).num_cells
    lengths = [sequences.lengths for sequences, _, _ in seen]
    for sequences, covered, count in seen:
        assert [x.sum().item() for x in covered.split(sequences.lengths)] == [cells + 1] * 3
        assert sum(count).item() == sum(lengths[0])
        firsts = torch.tensor([0, *sequences.lengths[:-1]]).cumsum(0)
        assert (covered[firsts] == 1).all() and (count[firsts] == 1).all()
    for before, after in pairwise(lengths):
        assert all(a <= b and 2 * (a - 1) >= b - 1 for a, b in zip(after, before, strict=True))
    if isinstance(own, Bipartite):
        for i in (1, 3):
            assert [1 + n - int(0.3 * n) for n in (x - 1 for x in lengths[i - 1])] == lengths[i]
    assert lengths[0] > lengths[1] == lengths[2] > lengths[3]
    for x, groups in zip(features, choices.maps()['merge_map'].data, strict=True):
        assert len(groups.unique()) == len(x.flatten(1).T.unique(dim=0))
        assert groups.min() >= 0 and groups.max() < cells
    assert [choices.costs.num_tokens[i].tolist() for i in range(4)] == [[x - 1 for x in row] for row in lengths]


@pytest.mark.parametrize('kind', ['MutualPairs', 'Bipartite'])
def test_an_image_merges_as_if_it_were_alone(make_merging, kind):
    model = make_merging(dict(type=kind, before=(0, 2)))
    (features,), choices = model.forward_gated(images())
    for i in range(3):
        (alone,), own = model.forward_gated(images()[i : i + 1])
        torch.testing.assert_close(alone[0], features[i], rtol=1e-12, atol=1e-12)
        assert torch.equal(own.maps()['merge_map'].data[0], choices.maps()['merge_map'].data[i])
        assert own.costs.total[0] == choices.costs.total[i]


def test_before_no_layer_is_no_step(make_merging):
    plain, idle = make_merging(), make_merging(dict(type='MutualPairs', before=()), test_execution='masked')
    assert idle.between == () and 'merge_map' not in idle.forward_gated(images())[1].maps()
    plain.test_execution = 'masked'
    assert torch.equal(plain(images())[0], idle(images())[0])
    never = make_merging(dict(type='MutualPairs', before=(1,), min_similarity=1.0))
    plain.test_execution = 'packed'
    assert torch.equal(plain(images())[0], never(images())[0])


def test_equal_tokens_merge_and_change_nothing_in_proportional_attention(perturb):
    """Pairs of equal tokens; without it their one counts as half of what they did."""
    layers = torch.nn.ModuleList(
        TransformerEncoderLayer(embed_dims=16, num_heads=2, feedforward_channels=24) for _ in range(2)
    )
    layers = perturb(layers).double().eval()
    tokens = torch.randn(9, 16, dtype=torch.float64).repeat_interleave(2, 0)
    sequences = PackedSequences([8, 10], torch.tensor([0] * 8 + [1] * 10))
    queries = Stream(torch.randn(3, 16, dtype=torch.float64), PackedSequences([1, 2], torch.tensor([0, 1, 1])))
    words = dict(out_indices=[1], queries=queries)
    (wanted,) = run_layers(layers, PretrainLayer(), Stream(tokens, sequences), **words).levels
    for proportional in (False, True):
        step = MutualPairs(before=(0,), proportional_attention=proportional)
        passed = run_layers(layers, PretrainLayer(), Stream(tokens, sequences), between=[step], **words)
        assert passed.last.sequences.lengths == [4, 5]
        same = [torch.allclose(x, y, rtol=1e-9, atol=1e-9) for x, y in zip(passed.levels[0], wanted, strict=True)]
        assert same == [True, True] if proportional else True
    step = MutualPairs(before=(1,), proportional_attention=True)
    (level,) = run_layers(layers, PretrainLayer(), Stream(tokens, sequences), between=[step], **words).levels
    torch.testing.assert_close(level, wanted)


def test_tokens_come_go_and_merge_in_any_order():
    """Against the rows of a table by name: what each token that began has become."""
    stream = Stream(torch.arange(6.0)[:, None], PackedSequences([4, 2], torch.tensor([0, 0, 0, 0, 1, 1])))
    stream = stream.leave(torch.tensor([False, True, False, False, False, False]))
    stream = stream.merge(torch.tensor([0, 1, 1, 2, 3]), torch.tensor([[10.0], [20.0], [40.0], [50.0]]))
    assert stream.restored().flatten().tolist() == [10, 1, 20, 20, 40, 50]
    assert stream.count_tokens().tolist() == [1, 2, 1, 1]
    stream = stream.leave(torch.tensor([False, True, False, True]))
    stream = stream.merge(torch.tensor([0, 1]))
    assert stream.sequences.lengths == [1, 1]
    assert stream.restored().flatten().tolist() == [10, 1, 20, 20, 40, 50]
    assert stream.count_tokens().tolist() == [1, 1]


def test_regions_merge_within_themselves(make_merging):
    options = dict(with_cls_token=False, attention_scope='region')
    model = make_merging(dict(type='Bipartite', before=(1,), share=0.5), **options)
    with torch.no_grad():
        _, choices = model.forward_gated(images())
        costs = count_macs(model, images())
    assert choices.costs.total.sum().item() == costs
    assert (choices.costs.num_tokens[1] < choices.costs.num_tokens[0]).all()
    region = cell_slots(Tiling(*SIZE, (16, 32)))[0] // 5
    for groups in choices.maps()['merge_map'].data:
        for group in groups.unique():
            assert len(region[groups == group].unique()) == 1


def test_a_head_on_tokens_gets_the_merged_ones(make_merging):
    """Its multiply-adds fall with them, and what it scores is what it scores without merged tokens being told apart."""
    head = MixedScaleMaskTransformerHead(
        in_channels=32, channels=32, embed_dims=32, num_layers=1, num_heads=2, num_classes=3, in_index=1
    )
    head = head.double().eval()
    for merge in (None, dict(type='MutualPairs', before=(1, 3))):
        model = make_merging(merge, out_type='tokens', out_indices=[0, 3])
        with torch.no_grad():
            features, choices = model.forward_gated(images())
            lengths = torch.tensor(features[1].distinct()[1]) - 1
            assert torch.equal(lengths, choices.costs.num_tokens[-1])
            assert torch.equal(torch.tensor(features[0].distinct()[1]) - 1, choices.costs.num_tokens[0])
            assert count_macs(head, features) == head.count_macs(lengths).sum().item()
            assert head(features).shape == (3, 3, 5, 6)


class FirstTwo(MergeStep):
    """The first two tokens of every image merge."""

    def match(self, keys):
        own = torch.arange(keys.shape[1]).repeat(len(keys), 1)
        return own.index_fill(1, torch.tensor([1]), 0)

    def num_pairs(self, length):
        return 0


def test_a_new_step_is_one_class():
    MODELS.register_module(module=FirstTwo)
    try:
        words = dict(type='MSViT', arch=ARCH, img_size=64)
        model = MODELS.build(dict(**words, merge=dict(type='FirstTwo', before=(2,)))).eval()
        costs = model.forward_gated(torch.randn(2, 3, 64, 64))[1].costs
        assert torch.equal(costs.num_tokens[2] + 1, costs.num_tokens[1])
        for unknown in (dict(type='FirstOne', before=(2,)), 'FirstTwo'):
            with pytest.raises(ValueError, match='merge: wanted a config whose type is one of Bipartite, FirstTwo, M'):
                MODELS.build(dict(**words, merge=unknown))
    finally:
        MODELS.module_dict.pop('FirstTwo')
    assert list(registered(MergeStep)) == ['Bipartite', 'MutualPairs']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(merge=dict(type='MutualPairs', before=(1, 4))), r'^merge: before: wanted layers in \[0, 3\], got \[4\]$'),
        (dict(merge=dict(type='MutualPairs', before=(1, 1))), r'^before: wanted different layers, .* got \[1, 1\]$'),
        (dict(merge=dict(type='MutualPairs', before=(-1,))), r'^before: wanted different layers, .* got \[-1\]$'),
        (dict(merge=dict(type='MutualPairs', before=(1,), min_similarity=2)), r'^min_similarity: wanted .* got 2$'),
        (dict(merge=dict(type='Bipartite', before=(1,), share=0.6)), r'^share must lie in \(0, 0.5\], got 0.6$'),
        (dict(merge=dict(type='MutualPair', before=(1,))), r'got .*MutualPair.*did you mean MutualPairs'),
        (
            dict(merge=dict(type='MutualPairs', before=(1,)), test_execution='masked'),
            r"^merge and exits: wanted test_execution 'packed', got 'masked'$",
        ),
        (
            dict(merge=dict(type='MutualPairs', before=(1,)), train_execution='masked', gate_gradient='both'),
            r"^merge and exits: wanted train_execution 'counterfactual' or 'packed', got 'masked'$",
        ),
    ],
    ids=str,
)
def test_what_is_refused(make_msvit, options, message):
    with pytest.raises(ValueError, match=message):
        make_msvit(arch=ARCH, **options)


def test_merged_tokens_have_no_static_form_and_no_masked_execution(make_merging):
    model = make_merging(dict(type='MutualPairs', before=(1,)))
    with pytest.raises(ValueError, match='^export: wanted no steps between the layers, got 1$'):
        model.static((64, 96), token_budget=13)
    for execution in ('masked', 'padded'):
        with (
            pytest.raises(ValueError, match=f"^execution: wanted one of counterfactual, packed, got '{execution}'$"),
            model.configured(execution=execution),
        ):
            raise AssertionError('no error')
    with model.configured(between=()):
        assert 'merge_map' not in model.forward_gated(images())[1].maps()
    assert 'merge_map' in model.forward_gated(images())[1].maps()
