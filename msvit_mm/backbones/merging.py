"""Steps that merge similar tokens before a layer, each image for itself: fewer tokens inside the encoder."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from ..gates.base import did_you_mean, registered
from ..ops.checks import check_in
from .layers import PackedSequences, Stream


class MergeStep:
    """Interface of all steps that merge tokens; a subclass says which ones.

    Tokens are as alike as their keys in the coming layer, means over the heads, are by cosine. What merges becomes the
    mean of its tokens, weighted by the cells that they cover, at the place of the one that stands for it; rotary
    positions are means alike, and keys are compared before they turn. Class tokens and registers never merge, nor do
    tokens of two images, nor of two regions where attention stays within them. A step has no parameters.

    Args:
        before: Layers before which tokens merge, counted from 0.
        proportional_attention: A token counts as a key as often as tokens have become it, so that merging equal ones
            changes nothing.
        num_extra_tokens: Class tokens of each sequence, which come first; the backbone fills it in.

    Raises:
        ValueError: If the layers are no different numbers from 0 on.

    Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023 (similarity by keys, proportional attention).
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({},)

    def __init__(self, before: Sequence[int], proportional_attention: bool = False, num_extra_tokens: int = 0) -> None:
        if any(not isinstance(i, int) or i < 0 for i in before) or len({*before}) < len(before):
            raise ValueError(f'before: wanted different layers, counted from 0, got {list(before)}')
        self.before = tuple(before)
        self.proportional_attention = proportional_attention
        self.num_extra_tokens = num_extra_tokens

    @abstractmethod
    def match(self, keys: Tensor) -> Tensor:
        """Which token stands for each, itself if it merges with none.

        Args:
            keys: Of unit length, of m sequences of n tokens, shape (m, n, head_dims).

        Returns:
            Integers in [0, n), shape (m, n); a token that stands for others stands for itself.
        """

    @abstractmethod
    def num_pairs(self, length: int) -> int:
        """Pairs of tokens that :meth:`match` compares in a sequence of this length."""

    @torch.no_grad()
    def __call__(self, index: int, active: Stream, keys: Callable[[Tensor], Tensor]) -> Stream:
        if index not in self.before:
            return active
        sequences = active.sequences
        if not isinstance(sequences, PackedSequences):
            return active.merge(torch.empty(0))  # says what it wants
        similar = F.normalize(keys(active.tokens.detach()), dim=-1)
        into = self._places(similar, sequences.lengths)
        lengths = [length - self.num_extra_tokens for length in sequences.lengths]
        pairs = torch.tensor([self.num_pairs(n) for n in lengths], dtype=torch.float64, device=into.device)
        own = torch.tensor(sequences.lengths, dtype=torch.float64, device=into.device) * active.tokens.shape[-1]
        with torch.enable_grad():
            merged = active.merge(into).spend((pairs + own) * similar.shape[-1])
        if self.proportional_attention:
            assert isinstance(merged.sequences, PackedSequences)
            weights = merged.count_tokens().float()
            merged = merged._replace(sequences=replace(merged.sequences, weights=weights))
        return merged

    def _places(self, keys: Tensor, lengths: list[int]) -> Tensor:
        """New place of each packed token, (T, head_dims) -> (T,); sequences of equal length in one call."""
        extra, order = self.num_extra_tokens, torch.arange(len(keys), device=keys.device)
        stands, begin = order.clone(), torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
        for length in {*lengths} - {0, extra}:
            members = torch.tensor([i for i, x in enumerate(lengths) if x == length])
            own = begin[members].to(keys.device)[:, None] + order[extra:length]  # (m, n)
            stands[own] = own.gather(1, self.match(keys[own]))
        return ((stands == order).cumsum(0) - 1)[stands]


@MODELS.register_module()
class MutualPairs(MergeStep):
    """Two tokens become one where each is the other's nearest: as many as are alike, at most half of them.

    Args:
        before, proportional_attention, num_extra_tokens: As in :class:`MergeStep`.
        min_similarity: Only pairs of at least this cosine merge; None: all mutual ones.

    Raises:
        ValueError: If the similarity is no cosine.
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, dict(min_similarity=0.0, proportional_attention=True))

    def __init__(self, before: Sequence[int], min_similarity: float | None = None, **words: Any) -> None:
        super().__init__(before, **words)
        if min_similarity is not None and not -1 <= min_similarity <= 1:
            raise ValueError(f'min_similarity: wanted a cosine in [-1, 1] or None, got {min_similarity}')
        self.min_similarity = min_similarity

    def match(self, keys: Tensor) -> Tensor:
        """The smaller index stands for both.

        Example:
            >>> keys = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]]])
            >>> MutualPairs(before=[0]).match(keys)
            tensor([[0, 1, 2, 1]])
        """
        similarity = keys @ keys.transpose(1, 2)
        similarity.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        best, nearest = similarity.max(2)
        own = torch.arange(keys.shape[1], device=keys.device).expand_as(nearest)
        pairs = nearest.gather(1, nearest) == own
        if self.min_similarity is not None:
            pairs &= best >= self.min_similarity
        return torch.where(pairs, torch.minimum(own, nearest), own)

    def num_pairs(self, length: int) -> int:
        return length**2


@MODELS.register_module()
class Bipartite(MergeStep):
    """A fixed share of the tokens of each image merges, so that what an image costs follows from the gate alone.

    Every second token looks for its nearest among the others; the share of them whose match is best go into it.

    Args:
        before, proportional_attention, num_extra_tokens: As in :class:`MergeStep`.
        share: Of the tokens of an image that go into another one before each of the layers, in (0, 0.5].

    Raises:
        ValueError: If the share is none.

    Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023 (bipartite soft matching; there as many tokens
        merge in every image).
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, dict(share=0.5))

    def __init__(self, before: Sequence[int], share: float = 0.25, **words: Any) -> None:
        super().__init__(before, **words)
        check_in('(0, 0.5]', share=share)
        self.share = share

    def match(self, keys: Tensor) -> Tensor:
        """Tokens of even places go into those of odd ones.

        Example:
            >>> keys = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]]])
            >>> Bipartite(before=[0]).match(keys)  # one of four
            tensor([[3, 1, 2, 3]])
        """
        num_sequences, length, _ = keys.shape
        own = torch.arange(length, device=keys.device).repeat(num_sequences, 1)
        if length < 2:
            return own
        best, nearest = (keys[:, 0::2] @ keys[:, 1::2].transpose(1, 2)).max(2)
        going = best.argsort(dim=1, descending=True, stable=True)[:, : int(self.share * length)]
        return own.scatter(1, 2 * going, 2 * nearest.gather(1, going) + 1)

    def num_pairs(self, length: int) -> int:
        return (length // 2) * (length - length // 2)


def build_merge(config: dict[str, Any], num_layers: int, num_extra_tokens: int) -> MergeStep:
    """Build a step for a backbone.

    Raises:
        ValueError: If the config names no registered step, or a layer that the backbone does not have.
    """
    wanted, names = config.get('type') if isinstance(config, Mapping) else None, registered(MergeStep)
    step = MODELS.get(wanted) if wanted and isinstance(wanted, str) else wanted
    if not (isinstance(step, type) and issubclass(step, MergeStep)):
        hint = did_you_mean(wanted, names)
        raise ValueError(f'merge: wanted a config whose type is one of {", ".join(names)}, got {config}{hint}')
    merge: MergeStep = MODELS.build({**config, 'num_extra_tokens': num_extra_tokens})
    check_layers('merge: before', merge.before, range(num_layers))
    return merge


def check_layers(name: str, layers: Sequence[int], possible: range) -> None:
    """Check that a backbone has these layers.

    Raises:
        ValueError: If not.
    """
    if beyond := [layer for layer in layers if layer not in possible]:
        raise ValueError(f'{name}: wanted layers in [{possible.start}, {possible.stop - 1}], got {beyond}')
