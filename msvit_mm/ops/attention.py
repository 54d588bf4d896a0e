"""Attention over token lists of unequal length: the one place that picks a kernel.

Token lists of one shape are one batched call of ``scaled_dot_product_attention`` (``sdpa``). Others go to torch's
``varlen_attn`` (``varlen``) where device, dtype and torch have it, else to ``sdpa`` list by list, or shape by shape
where many lists have few shapes. All compute the same. The environment variable ``MSVIT_ATTENTION`` overrides the
choice: ``sdpa``, ``varlen`` (an error where it cannot run) or ``auto``, the default. Each choice is logged once.
"""

import logging
import os
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from torch.nn.attention.varlen import varlen_attn as torch_varlen_attn

    varlen_attn: Any = torch_varlen_attn  # its signature differs between versions of torch
except ImportError:  # torch < 2.10
    varlen_attn = None

KERNELS = ('auto', 'sdpa', 'varlen')
MAX_EXPONENT = 40.0  # half of what float32 holds: products with it stay finite
logger = logging.getLogger(__name__)


@torch.compiler.disable  # it would be compiled again for every set of lengths
def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_lengths: list[int],
    key_lengths: list[int],
    dropout: float = 0.0,
    key_weights: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention within each sequence of a packed batch.

    Args:
        query: Shape (sum of query lengths, heads, head_dims).
        key: Shape (sum of key lengths, heads, head_dims).
        value: Like ``key``.
        query_lengths: Queries of each sequence; they may differ from its keys.
        key_lengths: Keys of each sequence, at least 1.
        dropout: Probability of dropping an attention weight.
        key_weights: How many equal keys each key counts as, > 0, shape (sum of key lengths,); None: one.

    Returns:
        Shape (sum of query lengths, heads, head_dims).

    Raises:
        ValueError: If the lengths do not match the tensors, or ``MSVIT_ATTENTION`` cannot be followed.
    """
    if sum(query_lengths) != len(query) or sum(key_lengths) != len(key) or len(query_lengths) != len(key_lengths):
        raise ValueError(
            f'{len(query)} queries and {len(key)} keys do not divide into lengths {query_lengths} and {key_lengths}'
        )
    num_sequences, num_shapes = len(query_lengths), len(set(zip(query_lengths, key_lengths, strict=True)))
    if key_weights is not None:
        return _weighted_sequences(query, key, value, query_lengths, key_lengths, dropout, key_weights.log().to(query))
    if num_shapes == 1:
        query, key, value = (x.unflatten(0, (num_sequences, -1)) for x in (query, key, value))
        return _attend(query, key, value, dropout=dropout).flatten(0, 1)
    if choose_kernel(query.device, query.dtype, query.shape[-1], dropout) == 'varlen' and min(query_lengths) > 0:
        begins = (_cumulative(tuple(lengths), query.device) for lengths in (query_lengths, key_lengths))
        # contiguous: among the kernels behind it are some that ignore strides
        return varlen_attn(
            *(x.contiguous() for x in (query, key, value)), *begins, max(query_lengths), max(key_lengths)
        )
    if num_shapes > num_sequences // 2:  # slices are views; grouping copies
        sequences = zip(query.split(query_lengths), key.split(key_lengths), value.split(key_lengths), strict=True)
        return torch.cat([_attend(q[None], k[None], v[None], dropout=dropout)[0] for q, k, v in sequences])
    return _grouped_attention(query, key, value, query_lengths, key_lengths, dropout)


def choose_kernel(device: torch.device, dtype: torch.dtype, head_dims: int, dropout: float = 0.0) -> str:
    """The kernel for token lists of unequal length, ``'varlen'`` or ``'sdpa'``.

    Raises:
        ValueError: If ``MSVIT_ATTENTION`` is unknown, or asks for ``varlen`` where it cannot run.
    """
    return _choose_once(os.environ.get('MSVIT_ATTENTION', 'auto'), device, dtype, head_dims, dropout)


def varlen_obstacle(device: torch.device, dtype: torch.dtype, head_dims: int, dropout: float = 0.0) -> str | None:
    """What ``varlen_attn`` needs and does not get, in words, or None if it can run."""
    needs = {
        'torch >= 2.10': varlen_attn is not None,
        f'a CUDA device, got {device.type}': device.type == 'cuda',
        f'float16 or bfloat16, got {dtype}': dtype in (torch.float16, torch.bfloat16),
        f'a multiple of 8 up to 256 as head dimension, got {head_dims}': head_dims % 8 == 0 and head_dims <= 256,
        f'attention without dropout, got {dropout}': dropout == 0,
    }
    unmet = [need for need, met in needs.items() if not met]
    if not unmet and torch.cuda.get_device_capability(device) < (8, 0):
        unmet = ['an Ampere GPU or a newer one']
    return unmet[0] if unmet else None


def masked_attention(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention in which every token is a query and only some are keys and values.

    Args:
        query: Shape (B, N, heads, head_dims); ``key`` and ``value`` alike.
        key_mask: Which tokens are keys, boolean, or key weights as for :func:`weighted_attention`, shape (B, N).
        dropout: Probability of dropping an attention weight.

    Returns:
        Shape (B, N, heads, head_dims).
    """
    if key_mask.dtype != torch.bool:
        return weighted_attention(query, key, value, key_mask, dropout)
    return _attend(query, key, value, mask=key_mask[:, None, None, :], dropout=dropout)


def row_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention of every token to all of its row, (B, N, heads, head_dims) -> the same."""
    return _attend(query, key, value, dropout=dropout)


def weighted_attention(query: Tensor, key: Tensor, value: Tensor, key_weights: Tensor, dropout: float = 0.0) -> Tensor:
    r"""Attention with a weight per key, differentiable in the weights also where they are 0.

    .. math:: a_{ij} = w_j \exp(q_i k_j / \sqrt d) \,/\, \textstyle\sum_j w_j \exp(q_i k_j / \sqrt d)

    With straight-through weights this is the mask path from the task loss to the gate. The gradient of a weight of 0
    grows with the exponential of how far its key's score is above those of all others, here up to :math:`e^{40}`.

    Args:
        key_weights: :math:`w_j` in [0, 1], at least one positive in each row, shape (B, N).
    """
    key_weights = key_weights[:, None, None, :]
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # (B, N, H, D) -> (B, H, N, D)
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # whose range the exponent is for
    largest = scores.detach().masked_fill(key_weights == 0, -torch.inf).amax(-1, keepdim=True)
    scores = (scores - largest).clamp(max=MAX_EXPONENT).exp() * key_weights
    weights = scores / scores.sum(-1, keepdim=True)
    return (F.dropout(weights, dropout).to(value.dtype) @ value).transpose(1, 2)


@lru_cache(maxsize=8)  # the layers of a network ask for the same ones
def _cumulative(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where each token list begins, and the end of the last, int32, shape (len(lengths) + 1,)."""
    with torch.inference_mode(False):  # what is kept must serve training, too
        ends = torch.tensor((0, *lengths)).cumsum(0)
        return ends.to(device, torch.int32)


@lru_cache
def _choose_once(wanted: str, device: torch.device, dtype: torch.dtype, head_dims: int, dropout: float) -> str:
    if wanted not in KERNELS:
        raise ValueError(f'MSVIT_ATTENTION must be one of {", ".join(KERNELS)}, got {wanted!r}')
    obstacle = None if wanted == 'sdpa' else varlen_obstacle(device, dtype, head_dims, dropout)
    if wanted == 'varlen' and obstacle:
        raise ValueError(f'MSVIT_ATTENTION=varlen needs {obstacle}')
    kernel = 'sdpa' if wanted == 'sdpa' or obstacle else 'varlen'
    reason = f' (varlen needs {obstacle})' if obstacle else ''
    logger.info('attention over unequal lengths on %s in %s: %s%s', device, dtype, kernel, reason)
    return kernel


def _weighted_sequences(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_lengths: list[int],
    key_lengths: list[int],
    dropout: float,
    key_bias: Tensor,
) -> Tensor:
    """:func:`packed_attention` with a number (sum of key lengths,) added to every score of a key, list by list."""
    keys = (x.split(key_lengths) for x in (key, value, key_bias))
    sequences = zip(query.split(query_lengths), *keys, strict=True)
    return torch.cat(
        [_attend(q[None], k[None], v[None], bias[None, None, None], dropout)[0] for q, k, v, bias in sequences]
    )


def _grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, query_lengths: list[int], key_lengths: list[int], dropout: float
) -> Tensor:
    """:func:`packed_attention` for many sequences of few shapes: one batched call for each shape."""
    lengths = torch.tensor([query_lengths, key_lengths], device=query.device)
    begins = lengths.cumsum(1) - lengths
    outputs, places = [], []
    for shape in lengths.unique(dim=1).T:
        members = begins[:, (lengths == shape[:, None]).all(0)]
        q_place, k_place = (
            begin[:, None] + torch.arange(length, device=query.device)
            for begin, length in zip(members, shape.tolist(), strict=True)
        )
        attended = _attend(query[q_place], key[k_place], value[k_place], dropout=dropout)
        outputs.append(attended.flatten(0, 1))
        places.append(q_place.flatten())
    return torch.cat(outputs)[torch.cat(places).argsort()]


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """(B, N, heads, head_dims) -> the same, by torch's fused kernels."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout).transpose(1, 2)
