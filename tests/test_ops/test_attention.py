import inspect

import pytest
import torch

from msvit_mm.ops import attention
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


@pytest.mark.parametrize('mask', [MASK, torch.ones_like(MASK)], ids=['some', 'all'])
def test_large_scores_stay_finite(mask):
    q, k, v = (100 * x for x in random_batch())  # some masked keys score far above all others
    weights = mask.double().requires_grad_()
    out = weighted_attention(q, k, v, weights)
    torch.testing.assert_close(out, masked_attention(q, k, v, mask))
    (gradient,) = torch.autograd.grad(out.square().sum(), weights)
    assert gradient.isfinite().all()


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


# The choice of a kernel


@pytest.fixture
def gpu(monkeypatch):
    """Words of ``choose_kernel`` for a machine with a current GPU and torch, whatever this one has."""
    monkeypatch.delenv('MSVIT_ATTENTION', raising=False)
    monkeypatch.setattr(attention, 'varlen_attn', looped_varlen)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0))
    attention._choose_once.cache_clear()
    yield dict(device=torch.device('cuda', 0), dtype=torch.bfloat16, head_dims=64, dropout=0.0)
    attention._choose_once.cache_clear()


def looped_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
    """What torch's ``varlen_attn`` computes from its seven positional arguments."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert query.is_contiguous() and key.is_contiguous() and value.is_contiguous()
    q_lengths, k_lengths = cu_seq_q.diff().tolist(), cu_seq_k.diff().tolist()
    assert (max(q_lengths), max(k_lengths)) == (max_q, max_k)
    parts = zip(query.split(q_lengths), key.split(k_lengths), value.split(k_lengths), strict=True)
    return torch.cat([naive_attention(*part) for part in parts])


OBSTACLES = [
    (dict(), (8, 0), None),
    (dict(dtype=torch.float16), (9, 0), None),
    (dict(device=torch.device('cpu')), (8, 0), 'a CUDA device, got cpu'),
    (dict(dtype=torch.float32), (8, 0), 'float16 or bfloat16, got torch.float32'),
    (dict(head_dims=12), (8, 0), 'a multiple of 8 up to 256 as head dimension, got 12'),
    (dict(head_dims=264), (8, 0), 'a multiple of 8 up to 256 as head dimension, got 264'),
    (dict(dropout=0.1), (8, 0), 'attention without dropout, got 0.1'),
    (dict(), (7, 5), 'an Ampere GPU or a newer one'),
]


@pytest.mark.parametrize(('words', 'capability', 'obstacle'), OBSTACLES, ids=str)
def test_varlen_runs_where_it_can(gpu, monkeypatch, words, capability, obstacle):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    words = gpu | words
    assert attention.varlen_obstacle(**words) == obstacle
    assert attention.choose_kernel(**words) == ('sdpa' if obstacle else 'varlen')
    monkeypatch.setenv('MSVIT_ATTENTION', 'sdpa')
    assert attention.choose_kernel(**words) == 'sdpa'
    monkeypatch.setenv('MSVIT_ATTENTION', 'varlen')
    if obstacle:
        with pytest.raises(ValueError, match=f'MSVIT_ATTENTION=varlen needs {obstacle}'):
            attention.choose_kernel(**words)
    else:
        assert attention.choose_kernel(**words) == 'varlen'


def test_older_torch_has_no_varlen(gpu, monkeypatch):
    monkeypatch.setattr(attention, 'varlen_attn', None)
    assert attention.varlen_obstacle(**gpu) == 'torch >= 2.10'


def test_the_installed_torch_has_the_words_that_are_passed():
    varlen = pytest.importorskip('torch.nn.attention.varlen')
    words = list(inspect.signature(varlen.varlen_attn).parameters)[:7]
    assert words == ['query', 'key', 'value', 'cu_seq_q', 'cu_seq_k', 'max_q', 'max_k']
    assert attention.varlen_attn is varlen.varlen_attn


def test_unknown_kernel(gpu, monkeypatch):
    monkeypatch.setenv('MSVIT_ATTENTION', 'flash')
    with pytest.raises(ValueError, match="MSVIT_ATTENTION must be one of auto, sdpa, varlen, got 'flash'"):
        attention.choose_kernel(**gpu)


def test_each_choice_is_logged_once(gpu, caplog):
    with caplog.at_level('INFO', logger=attention.__name__):
        for dtype in (torch.bfloat16, torch.float32, torch.bfloat16, torch.float32):
            attention.choose_kernel(**gpu | dict(dtype=dtype))
    assert [record.message for record in caplog.records] == [
        'attention over unequal lengths on cuda:0 in torch.bfloat16: varlen',
        'attention over unequal lengths on cuda:0 in torch.float32: sdpa '
        '(varlen needs float16 or bfloat16, got torch.float32)',
    ]


@pytest.mark.parametrize(('query_lengths', 'key_lengths'), LENGTHS)
def test_varlen_gets_what_it_needs(gpu, monkeypatch, query_lengths, key_lengths):
    """Values and gradients are those of the other kernel; the slices of one projection are what the network passes."""
    qkv = torch.randn(max(sum(query_lengths), sum(key_lengths)), 3, 2, 4, dtype=torch.float64, requires_grad=True)
    q, k, v = qkv.unbind(1)
    parts = q[: sum(query_lengths)], k[: sum(key_lengths)], v[: sum(key_lengths)]
    results, calls = [], []
    for obstacle in (None, 'another machine'):
        attention._choose_once.cache_clear()
        monkeypatch.setattr(attention, 'varlen_obstacle', lambda *words, obstacle=obstacle: obstacle)
        monkeypatch.setattr(attention, 'varlen_attn', lambda *args: calls.append(args) or looped_varlen(*args))
        attended = packed_attention(*parts, query_lengths, key_lengths)
        results.append((attended, *torch.autograd.grad(attended.square().sum(), qkv)))
    unequal = len(set(zip(query_lengths, key_lengths, strict=True))) > 1
    assert len(calls) == (unequal and min(query_lengths) > 0)
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def test_weights_of_zero_in_half_precision_are_no_nan():
    q, k = torch.ones(1, 2, 1, 1).half(), torch.tensor([0.0, 12.0]).view(1, 2, 1, 1).half()
    out = weighted_attention(q, k, k, torch.tensor([[1.0, 0.0]]).half())
    assert out.dtype == torch.half and (out == 0).all()
