"""Tokens as maps and back, for networks that mix layers on tokens with convolutions."""

from torch import Tensor

from .packing import Packing

Size = tuple[int, int]


def to_map(tokens: Tensor, size: Size) -> Tensor:
    """(B, h * w, C) -> (B, C, h, w), channels last, which ``mT.unflatten`` would hide from convolutions if B is 1."""
    return tokens.unflatten(1, size).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C)."""
    return x.flatten(2).mT


def add_at(tokens: Tensor, branch: Tensor, packing: Packing) -> Tensor:
    """Add (T, C) to the packed ones of the tokens (B, N, C); the others stay as they are, bit for bit."""
    branch = branch.to(tokens.dtype)
    if packing.is_full:
        return tokens + branch.view_as(tokens)
    return tokens.flatten(0, 1).index_add(0, packing.index, branch).view_as(tokens)


def put_at(tokens: Tensor, packed: Tensor, packing: Packing) -> Tensor:
    """Write (T, C) over the packed ones of the tokens (B, N, C); the others stay as they are, bit for bit."""
    packed = packed.to(tokens.dtype)
    if packing.is_full:
        return packed.view_as(tokens)
    return tokens.flatten(0, 1).index_copy(0, packing.index, packed).view_as(tokens)


def spread(cells: Tensor, size: Size, cell: int) -> Tensor:
    """Values of square cells to the tokens in them, (B, h / cell * w / cell) -> (B, h, w).

    Example:
        >>> import torch
        >>> spread(torch.tensor([[1.0, 0.0]]), size=(2, 4), cell=2)
        tensor([[[1., 1., 0., 0.],
                 [1., 1., 0., 0.]]])
    """
    rows, cols = size[0] // cell, size[1] // cell
    return cells.reshape(-1, rows, 1, cols, 1).expand(-1, rows, cell, cols, cell).reshape(-1, *size)


def mean_of_cells(tokens: Tensor, size: Size, cell: int) -> Tensor:
    """Means of the tokens in square cells, (B, h * w, C) -> (B, h / cell * w / cell, C)."""
    if cell == 1:
        return tokens
    rows, cols = size[0] // cell, size[1] // cell
    strips = tokens.reshape(len(tokens), rows, cell, -1).sum(2)  # first over what lies far apart: torch is slow at both
    return strips.unflatten(-1, (cols, cell, -1)).mean(3).flatten(1, 2) / cell
