"""From gate logits to decisions: the relaxed sample and its hard reading."""

import torch
from torch import Tensor


def relaxed_gate_sample(gate_logits: Tensor, temperature: float = 1.0, noise: bool = True) -> Tensor:
    r"""Gumbel-sigmoid sample of a gate.

    .. math:: m = \sigma\big((g + \log u - \log(1 - u)) / \tau\big), \qquad u \sim U(0, 1)

    Args:
        gate_logits: :math:`g`, any shape.
        temperature: :math:`\tau` > 0, unitless.
        noise: Without noise this is the plain sigmoid, as used at inference.

    Returns:
        Gate values in [0, 1], same shape, in float32 at least.

    Raises:
        ValueError: If the temperature is not positive.

    Source: Maddison et al., ICLR 2017; MSViT, section 3.
    """
    if temperature <= 0:
        raise ValueError(f'temperature must be positive, got {temperature}')
    gate_logits = gate_logits.float() if gate_logits.dtype in (torch.float16, torch.bfloat16) else gate_logits
    if noise:
        eps = torch.finfo(gate_logits.dtype).eps
        u = torch.rand_like(gate_logits).clamp(eps, 1 - eps)
        gate_logits = gate_logits + u.log() - (1 - u).log()
    return torch.sigmoid(gate_logits / temperature)


def hard_decisions(gate_values: Tensor) -> Tensor:
    """Decisions ``1[m > 0.5]``: 1 = coarse, 0 = fine; same shape and dtype, no gradient."""
    return (gate_values.detach() > 0.5).to(gate_values.dtype)


def straight_through(gate_values: Tensor) -> Tensor:
    """Decisions in the forward pass with the gradient of the gate values in the backward pass.

    Example:
        >>> m = torch.tensor([0.2, 0.7], requires_grad=True)
        >>> straight_through(m)
        tensor([0., 1.], grad_fn=<AddBackward0>)
    """
    return hard_decisions(gate_values) + zero_with_gradient(gate_values)


def zero_with_gradient(gate_values: Tensor) -> Tensor:
    """Exactly zero in the forward pass, the gradient of ``gate_values`` in the backward pass."""
    return gate_values - gate_values.detach()
