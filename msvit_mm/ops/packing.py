"""Token lists of unequal length as one sequence, and back.

``pack`` and ``unpack`` are a pair: ``unpack(pack(tokens))`` is ``tokens`` where a token is selected and 0 elsewhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Which candidates of a batch stand where in the packed sequence.

    Attributes:
        index: Candidate of every packed token, into B * N, ascending, shape (T,).
        lengths: Packed tokens of each image; they sum to T.
        shape: (B, N) of the candidate table.
    """

    index: Tensor
    lengths: list[int]
    shape: tuple[int, int]

    @classmethod
    def select(cls, mask: Tensor) -> 'Packing':
        """Pack the candidates where ``mask`` (B, N) is true.

        Example:
            >>> packing = Packing.select(torch.tensor([[True, False, True], [False, True, False]]))
            >>> packing.index, packing.lengths
            (tensor([0, 2, 4]), [2, 1])
        """
        return cls(mask.flatten().nonzero().squeeze(1), mask.sum(1).tolist(), (mask.shape[0], mask.shape[1]))

    @property
    def is_full(self) -> bool:
        """Whether every candidate is selected: then there is nothing to gather, and nothing to scatter."""
        return len(self.index) == self.shape[0] * self.shape[1]

    def pack(self, tokens: Tensor) -> Tensor:
        """Gather the selected tokens, (B, N, C) -> (T, C)."""
        tokens = tokens.flatten(0, 1)
        return tokens if self.is_full else tokens.index_select(0, self.index)

    def unpack(self, packed: Tensor) -> Tensor:
        """Put packed tokens back into the candidate table, zeros elsewhere, (T, C) -> (B, N, C)."""
        if self.is_full:
            return packed.unflatten(0, self.shape)
        table = packed.new_zeros(self.shape[0] * self.shape[1], packed.shape[-1])
        return table.index_copy_(0, self.index, packed).unflatten(0, self.shape)

    def places(self) -> Tensor:
        """Place of each candidate in the packed sequence, meaningful where selected, shape (B, N)."""
        places = self.index.new_zeros(self.shape[0] * self.shape[1])
        order = torch.arange(len(self.index), device=self.index.device)
        return places.scatter(0, self.index, order).unflatten(0, self.shape)

    def image_of_token(self) -> Tensor:
        """Image that each packed token belongs to, shape (T,)."""
        return self.index.div(self.shape[1], rounding_mode='floor')
