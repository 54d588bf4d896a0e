"""Squares of tokens of a map, and convolutions of open tokens that never see the whole map."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .maps import Size, to_map, to_tokens
from .packing import Packing

WINDOW_VALUES = 2**18  # of one part, 1 MiB in float32


class PatchPacking(Packing):
    """Tokens of whole patches, patch after patch: in the packed sequence those of a patch stand together."""

    @property
    def is_full(self) -> bool:
        """Never: also all tokens stand in another order than in the map."""
        return False


class Windows(NamedTuple):
    """Patches and the ring of tokens around them, as places in a packed sequence.

    Attributes:
        places: Shape (n * side * side,).
        beyond: Which of ``places`` mean nothing, being closed or beyond the border, shape (m,).
        side: Tokens of a patch's side and 2.
    """

    places: Tensor
    beyond: Tensor
    side: int


class OpenTokens(NamedTuple):
    """Some tokens of a batch of maps.

    Attributes:
        packing: Which ones.
        size: (h, w) of the maps.
        patch: Side in tokens of the squares that are open or closed as a whole.
        patches: The open ones, into all patches of the batch, shape (n,).
    """

    packing: Packing
    size: Size
    patch: int
    patches: Tensor

    @classmethod
    def select(cls, mask: Tensor, size: Size, patch: int) -> 'OpenTokens':
        """The tokens of the patches where ``mask`` (B, patches) is true."""
        chosen = mask.flatten().nonzero().squeeze(1)
        if patch == 1:
            return cls(Packing(chosen, mask.sum(1).tolist(), (len(mask), mask.shape[1])), size, patch, chosen)
        index = patch_tokens(chosen, size, patch).flatten()
        lengths = (patch**2 * mask.sum(1)).tolist()
        return cls(PatchPacking(index, lengths, (len(mask), patch**2 * mask.shape[1])), size, patch, chosen)

    def __len__(self) -> int:
        return len(self.packing.index)

    @property
    def share(self) -> float:
        """Of all tokens."""
        return len(self) / (self.packing.shape[0] * self.packing.shape[1])

    @property
    def are_all(self) -> bool:
        return self.share == 1

    def windows_at(self, others: 'OpenTokens', dims: int) -> list[Windows]:
        """These tokens in the windows of other tokens' patches, which are of the same side.

        Args:
            others: Whose patches.
            dims: Channels; there are as many patches in an element of the list as the cache of a processor holds, or
                all of them if there is to be a gradient, which would be summed over the elements.
        """
        num_tokens, side = self.packing.shape[0] * self.packing.shape[1], self.patch + 2
        places = self.packing.index.new_full((num_tokens + 1,), -1)  # the last one for what is beyond the border
        places[self.packing.index] = torch.arange(len(self), device=places.device)
        found = places[patch_tokens(others.patches, self.size, self.patch, ring=1)]
        num_patches = len(found) if torch.is_grad_enabled() else WINDOW_VALUES // (side**2 * dims)
        parts = [part.flatten() for part in found.split(max(1, num_patches))]
        return [Windows(part.clamp(min=0), (part < 0).nonzero().squeeze(1), side) for part in parts]


def patch_tokens(patches: Tensor, size: Size, patch: int, ring: int = 0) -> Tensor:
    """Tokens of patches, into all tokens of the batch, -1 beyond the border, (n,) -> (n, side, side).

    Args:
        patches: Into all patches of the batch, raster order in each image.
        size: (h, w) of a map, multiples of ``patch``.
        patch: Side of a patch in tokens.
        ring: Further tokens on each side.

    Example:
        >>> patch_tokens(torch.tensor([1]), size=(2, 4), patch=2, ring=1)[0]
        tensor([[-1, -1, -1, -1],
                [ 1,  2,  3, -1],
                [ 5,  6,  7, -1],
                [-1, -1, -1, -1]])
    """
    table = _tokens_of_all(size, patch, ring, patches.device)
    image, cell = patches.div(len(table), rounding_mode='floor'), patches % len(table)
    index = table[cell]
    shifted = index + (image * (size[0] * size[1]))[:, None, None]
    return shifted.where(index >= 0, -1) if ring else shifted


@lru_cache(maxsize=64)
def _tokens_of_all(size: Size, patch: int, ring: int, device: torch.device) -> Tensor:
    """Tokens of all patches of one image, -1 beyond the border, shape (patches, side, side)."""
    rows, cols = size
    steps = torch.arange(-ring, patch + ring, device=device)
    y = (torch.arange(0, rows, patch, device=device)[:, None] + steps)[:, None, :, None]
    x = (torch.arange(0, cols, patch, device=device)[:, None] + steps)[None, :, None, :]
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < cols)
    return (y * cols + x).where(inside, -1).flatten(0, 1)


def depthwise(conv: nn.Conv2d, hidden: Tensor, tokens: OpenTokens, at: OpenTokens) -> Iterator[Tensor]:
    """A depth-wise 3x3 convolution of a map that has open tokens, and zeros elsewhere.

    Args:
        conv: Padded by 1.
        hidden: Of the open tokens, shape (T, D).
        tokens: Which these are.
        at: Where to read it.

    Yields:
        Parts that follow one another, together of shape (T', D), each as long as a processor's cache has room for.
    """
    if not len(tokens):
        assert conv.bias is not None
        yield conv.bias.expand(len(at), -1)
    elif tokens.patch == 1:
        yield at.packing.pack(to_tokens(conv(to_map(tokens.packing.unpack(hidden), tokens.size))))
    else:
        yield from (_convolve(conv, hidden, part) for part in tokens.windows_at(at, hidden.shape[1]))


def _convolve(conv: nn.Conv2d, hidden: Tensor, windows: Windows) -> Tensor:
    """Windows to their patches, (T, D) -> (T', D)."""
    gathered = hidden.index_select(0, windows.places).index_fill_(0, windows.beyond, 0.0)
    maps = gathered.unflatten(0, (-1, windows.side, windows.side)).permute(0, 3, 1, 2)  # channels last
    return F.conv2d(maps, conv.weight, conv.bias, groups=conv.groups).permute(0, 2, 3, 1).flatten(0, 2)
