import pytest
import torch

from msvit_mm.ops.attention import masked_attention, packed_attention, weighted_attention
from msvit_mm.ops.packing import Packing

MASK = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
LENGTHS = [
    pytest.param([3, 1, 5], [3, 1, 5], id='unequal'),
    pytest.param([4, 4], [4, 4], id='equal'),
    pytest.param([2, 2], [5, 5], id='equal, queries alone'),
    pytest.param([2, 2, 1], [3, 4, 3], id='unequal, queries alone'),
    pytest.param([0, 2], [3, 4], id='no query in one'),
    pytest.param([1, 4, 1, 1, 4, 2], [4, 1, 4, 4, 1, 2], id='many of few shapes'),
    pytest.param([0, 4, 0, 0, 4, 1], [4, 1, 4, 4, 1, 4], id='many of few shapes, no query in some'),
]


def random_qkv(num_queries, num_keys, heads=2, dims=4, dtype=torch.float64):
    return [torch.randn(n, heads, dims, dtype=dtype) for n in (num_queries, num_keys, num_keys)]


def random_batch():
    return [torch.randn(*MASK.shape, 2, 4, dtype=torch.float64) for _ in range(3)]


def naive_attention(query, key, value):
    """softmax(q k / sqrt(d)) v of one sequence, head by head."""
    heads = []
    for h in range(query.shape[1]):
        scores = query[:, h] @ key[:, h].T / query.shape[2] ** 0.5
        heads.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ value[:, h])
    return torch.stack(heads, dim=1)


@pytest.mark.parametrize(('query_lengths', 'key_lengths'), LENGTHS)
def test_packed_is_softmax_attention_within_each_sequence(query_lengths, key_lengths):
    q, k, v = random_qkv(sum(query_lengths), sum(key_lengths))
    parts = zip(q.split(query_lengths), k.split(key_lengths), v.split(key_lengths), strict=True)
    expected = torch.cat([naive_attention(*part) for part in parts])
    torch.testing.assert_close(packed_attention(q, k, v, query_lengths, key_lengths), expected, rtol=1e-10, atol=1e-12)


def test_equal_lengths_take_no_other_values_than_unequal_ones():
    lengths = [4, 4, 4]
    q, k, v = random_qkv(14, 14)
    batched = packed_attention(q[:12], k[:12], v[:12], lengths, lengths)
    looped = packed_attention(q, k, v, [*lengths, 2], [*lengths, 2])
    torch.testing.assert_close(batched, looped[:12], rtol=1e-10, atol=1e-12)


def test_masked_equals_packed():
    q, k, v = random_batch()
    packing = Packing.select(MASK)
    packed = packed_attention(*(x.flatten(0, 1)[packing.index] for x in (q, k, v)), packing.lengths, packing.lengths)
    masked = masked_attention(q, k, v, MASK)
    torch.testing.assert_close(masked.flatten(0, 1)[packing.index], packed, rtol=1e-10, atol=1e-12)
    # all tokens are queries of the same keys
    k, v = (x.flatten(0, 1)[packing.index] for x in (k, v))
    every_query = packed_attention(q.flatten(0, 1), k, v, [MASK.shape[1]] * len(MASK), packing.lengths)
    torch.testing.assert_close(masked.flatten(0, 1), every_query, rtol=1e-10, atol=1e-12)


def test_weights_of_0_and_1_are_the_mask():
    q, k, v = random_batch()
    expected = masked_attention(q, k, v, MASK)
    torch.testing.assert_close(weighted_attention(q, k, v, MASK.double()), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(masked_attention(q, k, v, MASK.double()), expected, rtol=1e-10, atol=1e-12)


def test_weights_are_differentiable_where_they_are_0():
    qkv = [x.requires_grad_() for x in random_batch()]
    weights = MASK.double().requires_grad_()
    assert torch.autograd.gradcheck(weighted_attention, (*qkv, weights))
    (gradient,) = torch.autograd.grad(weighted_attention(*qkv, weights).square().sum(), weights)
    assert gradient[~MASK].abs().min() > 0


def test_large_scores_stay_finite():
    q, k, v = (100 * x for x in random_batch())
    assert weighted_attention(q, k, v, torch.ones(MASK.shape, dtype=q.dtype)).isfinite().all()


@pytest.mark.parametrize(
    'attend',
    [
        lambda q, k, v, dropout: packed_attention(*(x.flatten(0, 1) for x in (q, k, v)), [400] * 2, [400] * 2, dropout),
        lambda q, k, v, dropout: masked_attention(q, k, v, torch.ones(2, 400, dtype=torch.bool), dropout),
        lambda q, k, v, dropout: masked_attention(q, k, v, torch.ones(2, 400), dropout),
    ],
    ids=['packed', 'masked', 'weighted'],
)
def test_dropout_spares_the_mean(attend):
    q = k = v = torch.ones(2, 400, 2, 4)
    assert torch.allclose(attend(q, k, v, 0.0), torch.ones(()))
    dropped = attend(q, k, v, 0.5)
    assert dropped.std() > 0.02
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ('query_lengths', 'key_lengths'), [([2, 2], [3, 3]), ([3, 2], [3, 2]), ([5], [3, 3]), ([2, 3], [6])]
)
def test_lengths_must_match(query_lengths, key_lengths):
    with pytest.raises(ValueError, match=r'5 queries and 6 keys do not divide into lengths \['):
        packed_attention(*random_qkv(5, 6), query_lengths, key_lengths)
