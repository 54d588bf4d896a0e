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
