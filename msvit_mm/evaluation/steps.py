"""What steps between the layers did to the tokens of an image, in shares."""

import torch
from torch import Tensor


def token_shares(
    scale_map: Tensor, factor: int, groups: Tensor | None = None, layers: Tensor | None = None
) -> dict[str, float]:
    """Shares of the tokens of two scales that merged, by what with, and that left, by the layer.

    Args:
        scale_map: 1 = coarse, 0 = fine, of a whole image, shape (rows, cols).
        factor: Cells along a side of a region.
        groups: Of the cells: those of one number became one token, shape (h, w); None without merging.
        layers: Of the cells: those that their token went through, shape (h, w); None without exits.

    Returns:
        ``merged_fine``, ``merged_coarse`` and ``merged_mixed``: tokens that became one with others of their scale
        alone, or of both. ``left_before_6`` and so on: tokens that left before a layer.

    Example:
        >>> groups = torch.tensor([[1, 1, 2, 2], [1, 1, 3, 2]])  # one coarse token, three of four fine
        >>> token_shares(torch.tensor([[1.0, 0.0]]), 2, groups)
        {'merged_fine': 0.6, 'merged_coarse': 0.0, 'merged_mixed': 0.0}
    """
    like = groups if groups is not None else layers
    assert like is not None
    coarse = (
        scale_map.repeat_interleave(factor, 0).repeat_interleave(factor, 1)[: like.shape[0], : like.shape[1]] >= 0.5
    )
    row, col = torch.meshgrid(*(torch.arange(side, device=like.device) for side in like.shape), indexing='ij')
    first = ~coarse | ((row % factor == 0) & (col % factor == 0))  # one cell of each token
    coarse, shares = coarse[first], {}
    if groups is not None:
        _, group = groups[first].unique(return_inverse=True)
        count, num_coarse = group.bincount()[group], group.bincount(weights=coarse.double())[group]
        merged, alike = count > 1, (num_coarse == 0) | (num_coarse == count)
        shares['merged_fine'] = (merged & alike & ~coarse).double().mean().item()
        shares['merged_coarse'] = (merged & alike & coarse).double().mean().item()
        shares['merged_mixed'] = (merged & ~alike).double().mean().item()
    if layers is not None:
        passed = layers[first]
        gone = passed[passed < layers.max()].unique().tolist()
        shares |= {f'left_before_{i:g}': (passed == i).double().mean().item() for i in gone}
    return shares
