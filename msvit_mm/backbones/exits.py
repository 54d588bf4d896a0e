"""Early exit: tokens whose class is clear stop in the middle of the encoder."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..gates.base import linear_macs
from .layers import Exit, PackedSequences, Stream
from .merging import check_layers


class ConfidentExits(BaseModule):
    """Tokens that a linear classifier is sure of run no further: later they are neither query nor key.

    Their features stay what they were. Of every class that it sees in an image the surest tokens stay as context, and
    so do class tokens and registers. The classifiers learn from label maps (:func:`~msvit_mm.losses.token_loss`).

    Args:
        layers: Before which tokens may leave, counted from 0; each has a LayerNorm and a classifier.
        num_classes: Of the labels.
        threshold: Tokens whose largest probability is above it leave, in (0, 1]; none at 1.
        keep_per_class: Surest tokens of each class that stay, at least 1, so that every image keeps keys.
        loss_weight: Of the classifiers' cross entropy.
        train_share: Of the training passes in which tokens leave before a layer, in [0, 1], or the head sees features
            in testing that it never saw.
        freeze_logits: At prediction a segmentor gives the cells of tokens that left the classifier's logits in place of
            its own.

    Raises:
        ValueError: If a number is out of its range.

    Source: Tang et al., "Dynamic Token Pruning in Plain Vision Transformers for Semantic Segmentation", ICCV 2023.
    """

    def __init__(
        self,
        layers: Sequence[int],
        num_classes: int,
        embed_dims: int,
        num_extra_tokens: int = 0,
        threshold: float = 0.95,
        keep_per_class: int = 5,
        loss_weight: float = 0.4,
        train_share: float = 0.15,
        freeze_logits: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise ValueError(f'exits: wanted a threshold in (0, 1], got {threshold}')
        if not 0 <= train_share <= 1:
            raise ValueError(f'exits: wanted a train_share in [0, 1], got {train_share}')
        if keep_per_class < 1 or num_classes < 2:
            raise ValueError(
                f'exits: wanted keep_per_class >= 1 and num_classes >= 2, got {keep_per_class} and {num_classes}'
            )
        self.layers = tuple(layers)
        self.num_classes = num_classes
        self.num_extra_tokens = num_extra_tokens
        self.threshold = threshold
        self.keep_per_class = keep_per_class
        self.loss_weight = loss_weight
        self.train_share = train_share
        self.freeze_logits = freeze_logits
        self.classifiers = nn.ModuleDict(
            {str(i): nn.Sequential(nn.LayerNorm(embed_dims), nn.Linear(embed_dims, num_classes)) for i in self.layers}
        )

    def forward(self, index: int, active: Stream, keys: Callable[[Tensor], Tensor]) -> Stream:
        """The step before a layer, as :class:`~msvit_mm.backbones.layers.Step`."""
        if index not in self.layers:
            return active
        sequences = active.sequences
        if not isinstance(sequences, PackedSequences):
            return active.leave(torch.empty(0, dtype=torch.bool))  # says what it wants
        classifier = self.classifiers[str(index)]
        logits = classifier(active.tokens)
        leaves = self.choose(logits.detach().float(), sequences)
        if self.training and torch.rand(()) >= self.train_share:
            leaves = torch.zeros_like(leaves)
        lengths = torch.tensor(sequences.lengths, dtype=torch.float64, device=logits.device)
        found = Exit(index, logits, active.place, leaves)
        return active.leave(leaves).spend(lengths * linear_macs(classifier))._replace(exits=(*active.exits, found))

    def choose(self, logits: Tensor, sequences: PackedSequences) -> Tensor:
        """Which tokens leave, (T, classes) -> boolean (T,)."""
        sure, label = logits.softmax(1).max(1)
        places = torch.cat([torch.arange(length) for length in sequences.lengths]).to(label.device)
        is_patch = places >= self.num_extra_tokens
        group = sequences.image * self.num_classes + label  # the tokens of one class in one image
        order = sure.masked_fill(~is_patch, -1).argsort(descending=True, stable=True)
        order = order[group[order].argsort(stable=True)]  # group by group, the surest first
        counts = group.bincount()
        first = (counts.cumsum(0) - counts)[group]
        rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device)) - first
        return is_patch & (sure > self.threshold) & (rank >= self.keep_per_class)


def build_exits(config: dict[str, Any], num_layers: int, embed_dims: int, num_extra_tokens: int) -> ConfidentExits:
    """Build exits for a backbone.

    Raises:
        ValueError: If the config has no classes, or a layer before which the backbone has no features.
    """
    if 'num_classes' not in config or 'layers' not in config:
        raise ValueError(f'exits: wanted layers and the num_classes of the labels that teach them, got {config}')
    exits = ConfidentExits(embed_dims=embed_dims, num_extra_tokens=num_extra_tokens, **config)
    check_layers('exits: layers', exits.layers, range(1, num_layers))
    return exits
