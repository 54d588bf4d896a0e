"""The hosts' transformer layers on packed tokens: one adapter per host, one loop, and a seam between the layers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops.attention import masked_attention, packed_attention, row_attention
from ..ops.packing import Packing

HostLayer = Any  # a transformer layer of a host, which is not typed


class LayerAdapter(Protocol):
    """What the loop asks of a host's layer, on tokens of any leading shape.

    Attributes:
        branches: Branches that stochastic depth drops each for itself.
    """

    branches: int

    def take_drop_path(self, layer: HostLayer) -> float:
        """Take the layer's drop path out and return its rate: here it acts per image, not per row of a tensor."""

    def dropout(self, layer: HostLayer) -> float:
        """Probability of dropping an attention weight now."""

    def project(self, layer: HostLayer, x: Tensor, count: int = 3) -> tuple[Tensor, ...]:
        """The first ``count`` of query, key and value, (..., C) -> (..., heads, head_dims) each."""

    def finish(self, layer: HostLayer, x: Tensor, attended: Tensor, keep: Tensor | None) -> Tensor:
        """The rest of a layer after its attention; ``keep`` (branches, ..., 1) are the factors of stochastic depth."""


class PretrainLayer:
    """mmpretrain's ``TransformerEncoderLayer``."""

    branches = 2

    def take_drop_path(self, layer: HostLayer) -> float:
        rate = float(getattr(layer.attn.out_drop, 'drop_prob', 0.0) or 0.0)
        layer.attn.out_drop = nn.Identity()
        layer.ffn.dropout_layer = nn.Identity()
        return rate

    def dropout(self, layer: HostLayer) -> float:
        return layer.attn.attn_drop if layer.training else 0.0

    def project(self, layer: HostLayer, x: Tensor, count: int = 3) -> tuple[Tensor, ...]:
        attn = layer.attn
        if count == 3:
            return attn.qkv(layer.ln1(x)).unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
        return _project(layer.ln1(x), attn.qkv.weight, attn.qkv.bias, attn.num_heads, count, attn.embed_dims)

    def finish(self, layer: HostLayer, x: Tensor, attended: Tensor, keep: Tensor | None) -> Tensor:
        branch = layer.attn.gamma1(layer.attn.proj_drop(layer.attn.proj(attended.flatten(-2))))
        if keep is None:
            x = x + branch
            return layer.ffn(layer.ln2(x), identity=x)
        x = x + branch * keep[0]
        return x + layer.ffn(layer.ln2(x), identity=x.new_zeros(())) * keep[1]


class SegmenterLayer:
    """mmseg's ``TransformerEncoderLayer``, which has stochastic depth on its feed-forward branch alone."""

    branches = 1

    def take_drop_path(self, layer: HostLayer) -> float:
        rate = float(getattr(layer.ffn.dropout_layer, 'drop_prob', 0.0) or 0.0)
        layer.ffn.dropout_layer = nn.Identity()
        return rate

    def dropout(self, layer: HostLayer) -> float:
        return layer.attn.attn.dropout if layer.training else 0.0

    def project(self, layer: HostLayer, x: Tensor, count: int = 3) -> tuple[Tensor, ...]:
        attn = layer.attn.attn
        return _project(layer.norm1(x), attn.in_proj_weight, attn.in_proj_bias, attn.num_heads, count, attn.embed_dim)

    def finish(self, layer: HostLayer, x: Tensor, attended: Tensor, keep: Tensor | None) -> Tensor:
        x = x + layer.attn.proj_drop(layer.attn.attn.out_proj(attended.flatten(-2)))
        branch = layer.ffn(layer.norm2(x), identity=x.new_zeros(()))
        return x + (branch if keep is None else branch * keep[0])


@dataclass(frozen=True)
class PackedSequences:
    """Sequences of unequal length one after the other, each of which attends among itself.

    Attributes:
        lengths: Tokens of each sequence; they sum to T.
        image: Image of each token, shape (T,).
    """

    lengths: list[int]
    image: Tensor

    @classmethod
    def of(cls, packing: Packing, per_image: int = 1) -> 'PackedSequences':
        """The packed tokens of a batch whose candidates are ``per_image`` equal sequences in each image."""
        image = packing.image_of_token()
        if per_image == 1:
            return cls(packing.lengths, image)
        batch, candidates = packing.shape
        sequence = packing.index // (candidates // per_image)
        return cls(sequence.bincount(minlength=batch * per_image).tolist(), image)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, keys: 'PackedSequences | None' = None
    ) -> Tensor:
        """Attention of these tokens to their own keys, or to those of other sequences, one each."""
        return packed_attention(query, key, value, self.lengths, (keys or self).lengths, dropout)

    def merge(self, into: Tensor) -> 'PackedSequences':
        """The sequences once tokens have become one; ``into`` is as for :meth:`Stream.merge`.

        Raises:
            ValueError: If tokens would leave their sequence, or no token came to a place.
        """
        sequence = torch.arange(len(self.lengths), device=into.device)
        sequence = sequence.repeat_interleave(torch.tensor(self.lengths, device=into.device))
        image, own = (x.new_full((int(into.max()) + 1,), -1).scatter(0, into, x) for x in (self.image, sequence))
        if not (torch.equal(own[into], sequence) and torch.equal(own, own.clamp(min=0).cummax(0).values)):
            raise ValueError(f'merge: wanted places 0, 1, ... in the order of the sequences, got {into.tolist()[:16]}')
        return PackedSequences(own.bincount(minlength=len(self.lengths)).tolist(), image)

    def count(self, batch: int) -> tuple[Tensor, Tensor]:
        """Tokens and pairs of query and key of each image, integers, shape (B,) each."""
        lengths = torch.tensor(self.lengths, device=self.image.device).unflatten(0, (batch, -1))
        return lengths.sum(1), lengths.square().sum(1)


@dataclass(frozen=True)
class MaskedRows:
    """Sequences of one length as rows of a batch, some of whose tokens are keys.

    Attributes:
        key_mask: Boolean, or key weights, shape (rows, length).
        image: Image of each row, shape (rows, 1).
    """

    key_mask: Tensor
    image: Tensor

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float, keys: None = None) -> Tensor:
        """Attention of all tokens to those of their row that are keys."""
        return masked_attention(query, key, value, self.key_mask, dropout)

    def merge(self, into: Tensor) -> 'MaskedRows':
        """Not possible: those of its tokens that are no keys would have to follow."""
        raise ValueError('merge: wanted an execution on active tokens (packed, counterfactual), got masked rows')


@dataclass(frozen=True)
class EqualRows:
    """Sequences of one length as rows of a batch, without stochastic depth.

    Attributes:
        is_key: Which tokens are keys, boolean, shape (B, N); None if all are.
    """

    is_key: Tensor | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float, keys: None = None) -> Tensor:
        """Attention of all tokens to those of their row that are keys."""
        if self.is_key is None:
            return row_attention(query, key, value, dropout)
        return masked_attention(query, key, value, self.is_key, dropout)


class Stream(NamedTuple):
    """Tokens on their way through the layers.

    Attributes:
        tokens: Shape (T, C), or (rows, length, C).
        sequences: Who attends to whom.
        merged_into: For each token that the stream began with the one that stands for it now; None if it is itself.
    """

    tokens: Tensor
    sequences: PackedSequences | MaskedRows | EqualRows
    merged_into: Tensor | None = None

    def merge(self, into: Tensor, tokens: Tensor | None = None) -> 'Stream':
        """The stream once tokens have become one; :meth:`restored` gives each of them what their one has become.

        Args:
            into: New place of each token, 0, 1, ... in the order of the sequences, integers, shape (T,).
            tokens: What they become, shape (T', C); by default their means.

        Raises:
            ValueError: If tokens would leave their sequence, or these are masked rows.

        Example:
            >>> sequences = PackedSequences([3, 1], torch.tensor([0, 0, 0, 1]))
            >>> merged = Stream(torch.tensor([[1.0], [2.0], [4.0], [9.0]]), sequences).merge(torch.tensor([0, 1, 1, 2]))
            >>> merged.tokens.flatten(), merged.sequences.lengths, merged.restored().flatten()
            (tensor([1., 3., 9.]), [2, 1], tensor([1., 3., 3., 9.]))
        """
        sequences = self.sequences.merge(into)
        if tokens is None:
            sums = self.tokens.new_zeros(len(sequences.image), self.tokens.shape[1]).index_add(0, into, self.tokens)
            tokens = sums / into.bincount().unsqueeze(1)
        return Stream(tokens, sequences, into if self.merged_into is None else into[self.merged_into])

    def restored(self) -> Tensor:
        """Tokens as many as the stream began with."""
        return self.tokens if self.merged_into is None else self.tokens.index_select(0, self.merged_into)


class Step(Protocol):
    """What changes the tokens before a layer, such as merging them (:meth:`Stream.merge`); the seam of run_layers.

    Counterfactual queries stay as they are: they see the tokens that the active ones have become.
    """

    def __call__(self, index: int, active: Stream) -> Stream:
        """The stream that layer ``index`` gets."""


class Passed(NamedTuple):
    """What the layers returned.

    Attributes:
        levels: For each requested layer the active tokens, and the further queries or None.
        sequences: Of the active tokens in every layer.
    """

    levels: list[tuple[Tensor, Tensor | None]]
    sequences: list[PackedSequences | MaskedRows | EqualRows]


def run_layers(
    layers: Iterable[HostLayer],
    adapter: LayerAdapter,
    active: Stream,
    queries: Stream | None = None,
    *,
    out_indices: Sequence[int],
    last_norm: nn.Module | None = None,
    drop_path: Tensor | None = None,
    between: Sequence[Step] = (),
    with_cp: bool = False,
) -> Passed:
    """Run transformer layers.

    Args:
        active: Tokens that attend to one another.
        queries: Further tokens that attend to the active ones, unseen by them and without backward.
        out_indices: Layers whose tokens are returned.
        last_norm: Applied after the last layer.
        drop_path: Factors of stochastic depth, shape (layers, branches, B).
        between: Steps that change the active tokens, in this order before every layer.
        with_cp: Compute each layer again in the backward pass instead of keeping what it needs there.
    """
    levels, sequences = [], []
    for i, layer in enumerate(layers):
        for step in between:
            active = step(i, active)
        norm = last_norm if last_norm is not None and i == len(layers) - 1 else _unchanged
        attend = partial(active.sequences.attend, dropout=adapter.dropout(layer))
        run = partial(checkpoint, _run_layer, use_reentrant=False) if with_cp else _run_layer
        keep = _keep(drop_path, i, active)
        x, *keys = run(adapter, layer, active.tokens, attend, keep, queries is not None)
        active = active._replace(tokens=norm(x))
        if queries is not None:
            queries = queries._replace(tokens=_run_queries(adapter, layer, queries, keys, active, drop_path, i, norm))
        sequences.append(active.sequences)
        if i in out_indices:
            levels.append((active.restored(), None if queries is None else queries.tokens))
    return Passed(levels, sequences)


def draw_drop_path(
    rates: Sequence[float], branches: int, batch: int, like: Tensor, sparing: bool = False
) -> Tensor | None:
    """Stochastic depth: a factor per layer, branch and image, shape (layers, branches, B); None if all rates are 0.

    Args:
        sparing: Draw no number for layers whose rate is 0: which numbers a seed gives is part of what users repeat.
    """
    if not any(rates):
        return None
    keep = 1 - like.new_tensor(rates)[:, None, None]
    if not sparing:
        return torch.rand(len(rates), branches, batch, device=like.device).lt(keep) / keep
    drawn = keep[:, 0, 0] < 1
    factors = like.new_ones(len(rates), branches, batch)
    factors[drawn] = torch.rand(int(drawn.sum()), branches, batch, device=like.device).lt(keep[drawn]) / keep[drawn]
    return factors


def _run_layer(
    adapter: LayerAdapter, layer: HostLayer, x: Tensor, attend: partial, keep: Tensor | None, return_keys: bool
) -> tuple[Tensor, ...]:
    """Tokens after one layer and, if asked for, the keys and values that they had; else their memory is free early."""
    if not return_keys:
        return (adapter.finish(layer, x, attend(*adapter.project(layer, x)), keep),)
    query, key, value = adapter.project(layer, x)
    return adapter.finish(layer, x, attend(query, key, value), keep), key, value


@torch.no_grad()
def _run_queries(
    adapter: LayerAdapter,
    layer: HostLayer,
    queries: Stream,
    keys: list[Tensor],
    active: Stream,
    drop_path: Tensor | None,
    index: int,
    norm: Callable[[Tensor], Tensor],
) -> Tensor:
    (query,) = adapter.project(layer, queries.tokens, 1)
    attended = queries.sequences.attend(query, *keys, dropout=adapter.dropout(layer), keys=active.sequences)
    return norm(adapter.finish(layer, queries.tokens, attended, _keep(drop_path, index, queries)))


def _unchanged(x: Tensor) -> Tensor:
    return x


def _keep(drop_path: Tensor | None, index: int, stream: Stream) -> Tensor | None:
    """A layer's factors of the tokens' images, (layers, branches, B) -> (branches, *image.shape, 1)."""
    return None if drop_path is None else drop_path[index][:, stream.sequences.image].unsqueeze(-1)


def _project(
    x: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int, count: int, dims: int
) -> tuple[Tensor, ...]:
    bias = None if bias is None else bias[: count * dims]
    return F.linear(x, weight[: count * dims], bias).unflatten(-1, (count, num_heads, -1)).unbind(-3)
