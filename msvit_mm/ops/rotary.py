"""Rotary positions in two dimensions: queries and keys turn with the place of their token."""

import math

import torch
from torch import Tensor


def angles_of(centres: Tensor, head_dims: int, temperature: float) -> Tensor:
    r"""The angles by which a token's queries and keys turn; they are linear in its place.

    .. math:: \alpha_{a, i} = 2 \pi c_a / t^{4 i / d}, \qquad a \in \{y, x\}, \; i < d / 4

    Args:
        centres: (y, x) of each token's centre, the image being [-1, 1] x [-1, 1], shape (..., 2).
        head_dims: Channels of a head, :math:`d`, a multiple of 4.
        temperature: :math:`t` > 0, the longest period.

    Returns:
        Shape (..., d / 2), of channels i and i + d / 2.

    Source: Siméoni et al., "DINOv3", arXiv 2508.10104.
    """
    exponents = torch.arange(head_dims // 4, device=centres.device, dtype=centres.dtype) / (head_dims // 4)
    return (2 * math.pi * centres.unsqueeze(-1) / temperature**exponents).flatten(-2)  # (..., 2, d / 4) -> (..., d / 2)


def rotation_of(angles: Tensor) -> Tensor:
    """Sine and cosine of angles, (..., d / 2) -> (..., 2, d), as :func:`rotate` takes them."""
    return torch.stack([torch.cat([x, x], dim=-1) for x in (angles.sin(), angles.cos())], dim=-2)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Queries or keys turned: channel i with channel i + d / 2.

    Args:
        x: Shape (..., heads, d).
        rotation: Of each token, shape (..., 2, d); sine 0 and cosine 1 leave it as it is.

    Example:
        >>> rotate(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        tensor([[0., 1.]])
    """
    sin, cos = rotation.unsqueeze(-3).unbind(-2)  # (..., 2, d) -> (..., 1, d) each
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)
