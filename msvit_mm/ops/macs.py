"""Closed-form multiply-adds of one gated forward pass, and a counter for everything else.

One MAC is one multiply and one add. Norms, activations, softmax, biases and gathers are not counted, as in the papers.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def encoder_macs(
    num_tokens: Tensor | int, embed_dims: int, ffn_macs: int, num_layers: int, num_pairs: Tensor | int | None = None
) -> Tensor | int:
    r"""Transformer layers over N tokens with P query-key pairs: :math:`L (N (4 C^2 + F) + 2 P C)`.

    Args:
        num_tokens: :math:`N`, with the class token, any shape.
        embed_dims: :math:`C`.
        ffn_macs: :math:`F`, multiply-adds of the feed-forward network for one token.
        num_layers: :math:`L`.
        num_pairs: :math:`P`, like ``num_tokens``; by default every token attends to every token, :math:`N^2`.

    Example:
        >>> encoder_macs(196, embed_dims=384, ffn_macs=2 * 384 * 1536, num_layers=12) / 1e9
        4.51584
    """
    num_pairs = num_tokens**2 if num_pairs is None else num_pairs
    return num_layers * (num_tokens * (4 * embed_dims**2 + ffn_macs) + 2 * num_pairs * embed_dims)


def count_macs(function: Callable[..., object], *args: object) -> int:
    """Multiply-adds that ``function(*args)`` really dispatches, attention included.

    Fused attention kernels hide their work from some counters, so the math kernel is used while counting.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        function(*args)
    return counter.get_total_flops() // 2
