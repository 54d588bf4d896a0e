"""The hosts' transformer layers on packed tokens: one adapter per host, one loop, and a seam between the layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops.attention import masked_attention, packed_attention, row_attention
from ..ops.packing import Packing
from ..ops.rotary import rotate, rotation_of

HostLayer = Any  # a layer or another module of a host, which is not typed
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # query, key and value to what was attended


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

    def mean_keys(self, layer: HostLayer, x: Tensor) -> Tensor:
        """Mean over the heads of the keys, (..., C) -> (..., head_dims)."""

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

    def mean_keys(self, layer: HostLayer, x: Tensor) -> Tensor:
        attn = layer.attn
        return _mean_keys(layer.ln1(x), attn.qkv.weight, attn.qkv.bias, attn.num_heads)

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

    def mean_keys(self, layer: HostLayer, x: Tensor) -> Tensor:
        attn = layer.attn.attn
        return _mean_keys(layer.norm1(x), attn.in_proj_weight, attn.in_proj_bias, attn.num_heads)

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
        weights: How many equal keys each token counts as, shape (T,); None: one.
    """

    lengths: list[int]
    image: Tensor
    weights: Tensor | None = None

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
        keys = keys or self
        return packed_attention(query, key, value, self.lengths, keys.lengths, dropout, keys.weights)

    @property
    def sequence(self) -> Tensor:
        """Sequence of each token, shape (T,)."""
        lengths = torch.tensor(self.lengths, device=self.image.device)
        return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=len(self.image))

    def merge(self, into: Tensor) -> 'PackedSequences':
        """The sequences once tokens have become one; ``into`` is as for :meth:`Stream.merge`.

        Raises:
            ValueError: If tokens would leave their sequence, or no token came to a place.
        """
        sequence = self.sequence
        image, own = (x.new_full((int(into.max()) + 1,), -1).scatter(0, into, x) for x in (self.image, sequence))
        if not (torch.equal(own[into], sequence) and torch.equal(own, own.clamp(min=0).cummax(0).values)):
            raise ValueError(f'merge: wanted places 0, 1, ... in the order of the sequences, got {into.tolist()[:16]}')
        return PackedSequences(own.bincount(minlength=len(self.lengths)).tolist(), image)

    def leave(self, stays: Tensor) -> 'PackedSequences':
        """The sequences of the tokens that stay, boolean (T,)."""
        lengths = self.sequence[stays].bincount(minlength=len(self.lengths)).tolist()
        return PackedSequences(lengths, self.image[stays], None if self.weights is None else self.weights[stays])

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

    leave = merge


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
        tokens: Those that run, shape (T, C), or (rows, length, C).
        sequences: Who attends to whom.
        place: For each token that the stream began with, where the one is that stands for it now: among those that run
            and, behind them, those that have left; None if all run as they began.
        cells: Cells that each token covers that the stream began with; None if no step asks.
        left: Tokens that have left, shape (L, C), or None.
        angles: By how much the tokens' queries and keys turn, shape (T, head_dims / 2), or (rows, length,
            head_dims / 2); None where positions are in the tokens.
        macs: Multiply-adds of the steps so far, of each sequence, shape (S,); None if there were none.
        exits: What tokens were classified as on the way.
    """

    tokens: Tensor
    sequences: PackedSequences | MaskedRows | EqualRows
    place: Tensor | None = None
    cells: Tensor | None = None
    left: Tensor | None = None
    angles: Tensor | None = None
    macs: Tensor | None = None
    exits: tuple['Exit', ...] = ()

    def merge(self, into: Tensor, tokens: Tensor | None = None) -> 'Stream':
        """The stream once tokens have become one; :meth:`restored` gives each of them what their one has become.

        Its centre, by which it turns, is the mean of theirs, weighted by the cells that they cover.

        Args:
            into: New place of each token, 0, 1, ... in the order of the sequences, integers, shape (T,).
            tokens: What they become, shape (T', C); by default means like that of the centres.

        Raises:
            ValueError: If tokens would leave their sequence, or these are masked rows.

        Example:
            >>> sequences = PackedSequences([3, 1], torch.tensor([0, 0, 0, 1]))
            >>> merged = Stream(torch.tensor([[1.0], [2.0], [4.0], [9.0]]), sequences).merge(torch.tensor([0, 1, 1, 2]))
            >>> merged.tokens.flatten(), merged.sequences.lengths, merged.restored().flatten()
            (tensor([1., 3., 9.]), [2, 1], tensor([1., 3., 3., 9.]))
        """
        assert not isinstance(self.sequences, EqualRows)
        sequences = self.sequences.merge(into)
        count, cells = len(sequences.image), self.count_cells()
        weights = cells / cells.new_zeros(count).index_add(0, into, cells)[into]

        def mean(x: Tensor) -> Tensor:
            return x.new_zeros(count, x.shape[1]).index_add(0, into, x * weights.to(x).unsqueeze(1))

        tokens = mean(self.tokens) if tokens is None else tokens
        angles = None if self.angles is None else mean(self.angles)  # linear in the centres
        place = self._moved(into, count)
        return self._replace(tokens=tokens, sequences=sequences, place=place, angles=angles)

    def leave(self, leaves: Tensor) -> 'Stream':
        """The stream once tokens, boolean (T,), run no further; :meth:`restored` keeps them as they are.

        Raises:
            ValueError: If these are masked rows.

        Example:
            >>> stream = Stream(torch.tensor([[1.0], [2.0], [4.0]]), PackedSequences([3], torch.tensor([0, 0, 0])))
            >>> stream = stream.leave(torch.tensor([False, True, False]))
            >>> stream.tokens.flatten(), stream.sequences.lengths, stream.restored().flatten()
            (tensor([1., 4.]), [2], tensor([1., 2., 4.]))
        """
        assert not isinstance(self.sequences, EqualRows)
        stays, gone = ~leaves, self.tokens[leaves]
        tokens, left = self.tokens[stays], gone if self.left is None else torch.cat([self.left, gone])
        behind = len(tokens) + len(left) - len(gone) + leaves.cumsum(0) - 1
        place = self._moved(torch.where(stays, stays.cumsum(0) - 1, behind), len(tokens))
        angles = None if self.angles is None else self.angles[stays]
        return self._replace(
            tokens=tokens, sequences=self.sequences.leave(stays), place=place, left=left, angles=angles
        )

    def _moved(self, moved: Tensor, count: int) -> Tensor:
        """``place`` once the running tokens have other places, (T,), ``count`` of which run."""
        if self.place is None:
            return moved
        if self.left is not None:
            moved = torch.cat([moved, count + torch.arange(len(self.left), device=moved.device)])
        return moved[self.place]

    def rotation(self) -> Tensor | None:
        """How queries and keys turn, (..., 2, head_dims), or None."""
        return None if self.angles is None else rotation_of(self.angles)

    def count_tokens(self) -> Tensor:
        """How many tokens that the stream began with each running one stands for, integers, shape (T,)."""
        if self.place is None:
            return torch.ones(len(self.tokens), dtype=torch.long, device=self.tokens.device)
        return self.place.bincount(minlength=len(self.tokens))[: len(self.tokens)]

    def count_cells(self) -> Tensor:
        """Cells that each running token stands for, or tokens where they are not known, shape (T,)."""
        if self.cells is None:
            return self.count_tokens().float()
        if self.place is None:
            return self.cells
        total = len(self.tokens) + (0 if self.left is None else len(self.left))
        return self.cells.new_zeros(total).index_add(0, self.place, self.cells)[: len(self.tokens)]

    def spend(self, macs: Tensor) -> 'Stream':
        """The stream once a step has cost each sequence this many multiply-adds, (S,)."""
        return self._replace(macs=macs if self.macs is None else self.macs + macs)

    def restored(self) -> Tensor:
        """Tokens as many as the stream began with."""
        if self.place is None:
            return self.tokens
        table = self.tokens if self.left is None else torch.cat([self.tokens, self.left])
        return table.index_select(0, self.place)


class Exit(NamedTuple):
    """What a step classified tokens as.

    Attributes:
        layer: Before which it did.
        logits: Of every token that ran then, class tokens among them, shape (T, classes).
        place: As in :class:`Stream`, then; what is beyond the T tokens had left before.
        leaves: Which of them left, boolean, shape (T,).
    """

    layer: int
    logits: Tensor
    place: Tensor | None
    leaves: Tensor


class Step(Protocol):
    """What changes the tokens before a layer: :meth:`Stream.merge`, :meth:`Stream.leave`; the seam of run_layers.

    Counterfactual queries stay as they are: they see the tokens that the active ones have become.
    """

    def __call__(self, index: int, active: Stream, keys: Callable[[Tensor], Tensor]) -> Stream:
        """The stream that layer ``index`` gets.

        Args:
            active: What it would get without this step.
            keys: Mean over the heads of the keys that tokens have in this layer, (T, C) -> (T, head_dims).
        """


class Passed(NamedTuple):
    """What the layers returned.

    Attributes:
        levels: For each requested layer the active tokens, and the further queries or None.
        places: For each requested layer ``Stream.place``.
        sequences: Of the active tokens in every layer.
        last: The active tokens behind the last layer.
    """

    levels: list[tuple[Tensor, Tensor | None]]
    places: list[Tensor | None]
    sequences: list[PackedSequences | MaskedRows | EqualRows]
    last: Stream


def run_layers(
    layers: Sequence[HostLayer] | nn.ModuleList,
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
    levels, places, sequences = [], [], []
    rotation, query_rotation = active.rotation(), None if queries is None else queries.rotation()
    for i, layer in enumerate(layers):
        for step in between:
            active = step(i, active, partial(adapter.mean_keys, layer))
        rotation = active.rotation() if between else rotation
        norm = last_norm if last_norm is not None and i == len(layers) - 1 else _unchanged
        attend = partial(active.sequences.attend, dropout=adapter.dropout(layer))
        run = partial(checkpoint, _run_layer, use_reentrant=False) if with_cp else _run_layer
        keep = _keep(drop_path, i, active)
        x, *keys = run(adapter, layer, active.tokens, rotation, attend, keep, queries is not None)
        active = active._replace(tokens=norm(x), left=None if active.left is None else norm(active.left))
        if queries is not None:
            words = adapter, layer, queries, query_rotation, keys, active, drop_path, i, norm
            queries = queries._replace(tokens=_run_queries(*words))
        sequences.append(active.sequences)
        if i in out_indices:
            levels.append((active.restored(), None if queries is None else queries.tokens))
            places.append(active.place)
    return Passed(levels, places, sequences, active)


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
    adapter: LayerAdapter,
    layer: HostLayer,
    x: Tensor,
    rotation: Tensor | None,
    attend: Attend,
    keep: Tensor | None,
    return_keys: bool,
) -> tuple[Tensor, ...]:
    """Tokens after one layer and, if asked for, the keys and values that they had; else their memory is free early."""
    if not return_keys and rotation is None:
        return (adapter.finish(layer, x, attend(*adapter.project(layer, x)), keep),)
    query, key, value = adapter.project(layer, x)
    if rotation is not None:
        query, key = rotate(query, rotation), rotate(key, rotation)
    if not return_keys:
        return (adapter.finish(layer, x, attend(query, key, value), keep),)
    return adapter.finish(layer, x, attend(query, key, value), keep), key, value


@torch.no_grad()
def _run_queries(
    adapter: LayerAdapter,
    layer: HostLayer,
    queries: Stream,
    rotation: Tensor | None,
    keys: list[Tensor],
    active: Stream,
    drop_path: Tensor | None,
    index: int,
    norm: Callable[[Tensor], Tensor],
) -> Tensor:
    (query,) = adapter.project(layer, queries.tokens, 1)
    if rotation is not None:
        query = rotate(query, rotation)
    key, value = keys
    assert isinstance(queries.sequences, PackedSequences) and isinstance(active.sequences, PackedSequences)
    attended = queries.sequences.attend(query, key, value, adapter.dropout(layer), active.sequences)
    return norm(adapter.finish(layer, queries.tokens, attended, _keep(drop_path, index, queries)))


def _unchanged(x: Tensor) -> Tensor:
    return x


def _keep(drop_path: Tensor | None, index: int, stream: Stream) -> Tensor | None:
    """A layer's factors of the tokens' images, (layers, branches, B) -> (branches, *image.shape, 1)."""
    if drop_path is None:
        return None
    assert not isinstance(stream.sequences, EqualRows)
    return drop_path[index][:, stream.sequences.image].unsqueeze(-1)


def _project(
    x: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int, count: int, dims: int
) -> tuple[Tensor, ...]:
    bias = None if bias is None else bias[: count * dims]
    return F.linear(x, weight[: count * dims], bias).unflatten(-1, (count, num_heads, -1)).unbind(-3)


def _mean_keys(x: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int) -> Tensor:
    """The mean of the heads' keys is linear in the tokens: one head's projection gives it."""
    own, shift = (None if y is None else y.unflatten(0, (3, num_heads, -1))[1].mean(0) for y in (weight, bias))
    assert own is not None
    return F.linear(x, own, shift)
