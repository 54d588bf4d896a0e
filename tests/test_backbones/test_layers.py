"""The adapters are the hosts' layers, and the loop keeps its promises."""

import copy

import pytest
import torch
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer as HostPretrainLayer
from mmseg.models.backbones.vit import TransformerEncoderLayer as HostSegmenterLayer
from torch import nn

from msvit_mm.backbones.layers import (
    MaskedRows,
    PackedSequences,
    PretrainLayer,
    SegmenterLayer,
    Stream,
    draw_drop_path,
    run_layers,
)
from msvit_mm.ops.packing import Packing

LENGTHS = [5, 9]
CASES = [
    (PretrainLayer(), HostPretrainLayer, dict()),
    (PretrainLayer(), HostPretrainLayer, dict(layer_scale_init_value=0.1)),
    (PretrainLayer(), HostPretrainLayer, dict(qkv_bias=False)),
    (PretrainLayer(), HostPretrainLayer, dict(ffn_type='swiglu_fused')),
    (SegmenterLayer(), HostSegmenterLayer, dict()),
    (SegmenterLayer(), HostSegmenterLayer, dict(qkv_bias=False)),
]
every_host = pytest.mark.parametrize(('adapter', 'host', 'options'), CASES, ids=lambda x: getattr(x, '__name__', None))
both_hosts = pytest.mark.parametrize(('adapter', 'host'), [CASES[0][:2], CASES[4][:2]], ids=['pretrain', 'segmenter'])


@pytest.fixture
def make_layers(perturb):
    """Two layers of 16 channels, no parameter at a special value, in evaluation mode."""

    def make(host, **options):
        words = dict(embed_dims=16, num_heads=2, feedforward_channels=24)
        return perturb(nn.ModuleList(host(**words, **options) for _ in range(2))).double().eval()

    return make


def packed(lengths=LENGTHS):
    image = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return Stream(torch.randn(sum(lengths), 16, dtype=torch.float64), PackedSequences(lengths, image))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@every_host
def test_packed_layers_are_the_hosts_on_each_sequence(make_layers, adapter, host, options):
    layers, stream = make_layers(host, **options), packed()
    expected = []
    for x in stream.tokens.split(LENGTHS):
        for layer in layers:
            x = layer(x[None])[0]
        expected.append(x)
    (level,), _, sequences, _ = run_layers(layers, adapter, stream, out_indices=[1])
    close(level[0], torch.cat(expected))
    assert level[1] is None and sequences == [stream.sequences] * 2


@every_host
def test_masked_rows_are_the_hosts_on_their_keys(make_layers, adapter, host, options):
    layers, stream = make_layers(host, **options), packed([7, 7])
    keys = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    rows = stream.tokens.unflatten(0, (2, 7))
    (level,) = run_layers(
        layers, adapter, Stream(rows, MaskedRows(keys, torch.arange(2)[:, None])), out_indices=[1]
    ).levels
    for row, x, length in zip(level[0], rows, (7, 4), strict=True):
        x = x[None, :length]
        for layer in layers:
            x = layer(x)
        close(row[:length], x[0])


@both_hosts
def test_further_queries_see_the_active_tokens_and_are_unseen(make_layers, adapter, host):
    """A query that is a copy of an active token becomes what that token becomes, without gradient."""
    layers, stream = make_layers(host), packed()
    copies = torch.tensor([1, 4, 6])
    queries = Stream(stream.tokens[copies], PackedSequences([2, 1], stream.sequences.image[copies]))
    levels = run_layers(layers, adapter, stream, queries, out_indices=[0, 1]).levels
    alone = run_layers(layers, adapter, stream, out_indices=[0, 1]).levels
    for (active, further), (wanted, _) in zip(levels, alone, strict=True):
        close(active, wanted)
        close(further, wanted[copies])
        assert active.requires_grad and not further.requires_grad


@both_hosts
def test_stochastic_depth_acts_per_image(make_layers, adapter, host):
    """An image all of whose branches are dropped stays as it is but for what the host never drops."""
    layers, stream = make_layers(host), packed()
    keep = torch.ones(2, adapter.branches, 2, dtype=torch.float64)
    keep[:, :, 0] = 0
    (level,) = run_layers(layers, adapter, stream, out_indices=[1], drop_path=keep).levels
    (plain,) = run_layers(layers, adapter, stream, out_indices=[1]).levels
    first, second = level[0].split(LENGTHS)
    close(second, plain[0].split(LENGTHS)[1])
    x = stream.tokens[: LENGTHS[0]]
    if adapter.branches == 1:  # mmseg's attention is never dropped
        for layer in layers:
            normed = layer.norm1(x)[None]
            x = layer.attn(normed, identity=x[None])[0]
    close(first, x)


@both_hosts
def test_the_rate_of_stochastic_depth_is_taken_out_of_the_layer(make_layers, adapter, host):
    (first, second), stream = make_layers(host, drop_path_rate=0.25), packed([6] * 50)
    assert [adapter.take_drop_path(layer) for layer in (first, second)] == [0.25, 0.25]
    x = stream.tokens.unflatten(0, (50, 6))
    close(first.train()(x), first.eval()(x))
    assert adapter.take_drop_path(first) == 0


def test_factors_of_stochastic_depth():
    like = torch.zeros(1, dtype=torch.float64)
    assert draw_drop_path([0.0, 0.0], 2, 3, like) is None
    factors = draw_drop_path([0.0, 0.5], 2, 4000, like)
    assert factors.shape == (2, 2, 4000) and factors.dtype == torch.float64
    assert (factors[0] == 1).all() and set(factors[1].unique().tolist()) == {0, 2}
    torch.testing.assert_close(factors[1].mean(1), torch.ones(2).double(), rtol=0, atol=0.1)


def test_sequences_of_regions():
    """Four candidates in each of three regions of two images."""
    mask = torch.rand(2, 12) < 0.6
    sequences = PackedSequences.of(Packing.select(mask), per_image=3)
    assert sequences.lengths == mask.view(6, 4).sum(1).tolist()
    assert sequences.image.tolist() == mask.nonzero()[:, 0].tolist()
    whole = PackedSequences.of(Packing.select(mask))
    assert whole.lengths == mask.sum(1).tolist() and torch.equal(whole.image, sequences.image)


@both_hosts
def test_steps_between_the_layers_change_the_stream(make_layers, adapter, host):
    """Before the second layer every second token goes into its neighbour; levels have as many tokens as at first."""
    layers, stream = make_layers(host), packed([4, 6])

    def halve(index, active, keys):
        if index == 0:
            return active
        lengths = [length // 2 for length in active.sequences.lengths]
        kept = active.tokens.unflatten(0, (-1, 2)).mean(1)
        sequences = PackedSequences(lengths, active.sequences.image[::2])
        return Stream(kept, sequences, torch.arange(5).repeat_interleave(2))

    levels, _, sequences, _ = run_layers(layers, adapter, stream, out_indices=[0, 1], between=[halve])
    assert [x.lengths for x in sequences] == [[4, 6], [2, 3]]
    (first, _), (second, _) = levels
    half = first.unflatten(0, (-1, 2)).mean(1)
    expected = torch.cat([layers[1](x[None])[0] for x in half.split([2, 3])])
    close(second, expected.repeat_interleave(2, 0))


@both_hosts
@pytest.mark.parametrize('with_queries', [False, True])
def test_checkpoints_change_no_gradient(make_layers, adapter, host, with_queries):
    stream, results, own = packed(), [], make_layers(host)
    queries = packed([2, 3]) if with_queries else None
    for with_cp in (False, True):
        layers = copy.deepcopy(own)
        tokens = stream.tokens.clone().requires_grad_()
        (level,) = run_layers(
            layers, adapter, stream._replace(tokens=tokens), queries, out_indices=[1], with_cp=with_cp
        ).levels
        level[0].square().sum().backward()
        results.append([tokens.grad, *(parameter.grad for parameter in layers.parameters())])
    close(*results)


def test_the_last_norm_is_for_the_last_layer_alone(make_layers):
    layers, norm, stream = make_layers(HostPretrainLayer), nn.LayerNorm(16).double(), packed()
    (first, last) = run_layers(layers, PretrainLayer(), stream, out_indices=[0, 1], last_norm=norm).levels
    (same, plain) = run_layers(layers, PretrainLayer(), stream, out_indices=[0, 1]).levels
    close(first[0], same[0])
    close(last[0], norm(plain[0]))
