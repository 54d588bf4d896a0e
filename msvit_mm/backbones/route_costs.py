"""What routes cost: multiply-adds of every part of a routing space, in closed form."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..gates.route import Edge
from ..ops.maps import Size
from .base import Costs
from .pvt import NUM_ROWS, block_macs


class CostTable(NamedTuple):
    """Multiply-adds for images of one size.

    Attributes:
        embedding: Stem and entries, which every token takes.
        gate: All gates.
        edges: Of each gated edge what it costs once any of its tokens is open, and per open token.
        reference: Of plain PVTv2 of the same architecture.
        num_tokens: Tokens of a row, of the four rows.
        patches: Side in tokens of the squares that are open or closed as a whole, of the four rows.
    """

    embedding: float
    gate: int
    edges: dict[Edge, tuple[float, float]]
    reference: float
    num_tokens: tuple[int, ...]
    patches: tuple[int, ...]

    @property
    def floor(self) -> float:
        """Cost with every gate closed, relative to ``reference``: no budget below it can be met."""
        return (self.embedding + self.gate) / self.reference

    @property
    def dense(self) -> Costs:
        """Costs of plain PVTv2; its layers are the rows."""
        embedding, encoder = (
            torch.tensor([macs], dtype=torch.float64) for macs in (self.embedding, self.reference - self.embedding)
        )
        num_tokens = torch.tensor(self.num_tokens).unsqueeze(1)
        return Costs(num_tokens, torch.zeros_like(embedding), embedding, encoder, self.reference)

    def costs(self, decisions: Mapping[Edge, Tensor]) -> Costs:
        """Costs of decisions (B, patches) on every edge, with gradient; merges count as embedding, nodes as layers."""
        given = [decisions[edge] for edge in self.edges]
        cells = [self.patches[row + (kind == 'merge')] ** 2 for kind, row, _ in self.edges]
        counts = torch.stack([x.sum(1, dtype=torch.float64) for x in given])
        counts = counts * counts.new_tensor(cells).unsqueeze(1)
        any_open = torch.stack([x.amax(1) for x in given])
        static, per_token = counts.new_tensor([*self.edges.values()]).T.unsqueeze(-1)  # (edges, 1)
        macs = static * any_open + per_token * counts
        is_node = torch.tensor([kind == 'row' for kind, _, _ in self.edges], device=macs.device)
        encoder = macs[is_node].sum(0)
        gate = torch.full_like(encoder, self.gate)
        num_tokens = counts[is_node].detach().long()
        return Costs(num_tokens, gate, self.embedding + macs[~is_node].sum(0), encoder, self.reference)


def make_cost_table(
    arch: Mapping[str, Sequence[int]],
    sizes: Sequence[Size],
    edges: Iterable[Edge],
    depths: Mapping[Edge, int],
    gate_macs: int,
    patches: Sequence[int] = (1,) * NUM_ROWS,
    row_weights: Sequence[float] = (1,) * NUM_ROWS,
) -> CostTable:
    """The table for rows of these sizes.

    Args:
        arch: Of PVTv2, as :func:`~msvit_mm.backbones.pvt.arch_settings` returns it.
        sizes: (h, w) of the four rows.
        edges: The gated ones.
        depths: Blocks of every node.
        gate_macs: Of all gates.
        patches: Side in tokens of the squares that are open or closed as a whole, of the four rows.
        row_weights: How often each multiply-add counts of what makes and transforms the tokens of the four rows.
    """
    dims, cells = arch['embed_dims'], [math.prod(size) for size in sizes]
    words = zip(dims, arch['mlp_ratios'], arch['sr_ratios'], sizes, patches, strict=True)
    macs = [block_macs(c, int(c * mlp_ratio), sr_ratio, size, p) for c, mlp_ratio, sr_ratio, size, p in words]
    blocks = [(w * static, w * per_token) for w, (static, per_token) in zip(row_weights, macs, strict=True)]
    entries = [9 * dims[i] * dims[i + 1] * row_weights[i + 1] for i in range(NUM_ROWS - 1)]  # per token of row i + 1
    embedding = 147 * dims[0] * cells[0] * row_weights[0] + sum(e * n for e, n in zip(entries, cells[1:], strict=True))
    table = {}
    for edge in edges:
        kind, row, _ = edge
        if kind == 'row':
            static, per_token = blocks[row]
            table[edge] = depths[edge] * static, depths[edge] * per_token
        else:
            table[edge] = 0, entries[row]
    plain = sum(
        depth * (static + per_token * n)
        for depth, (static, per_token), n in zip(arch['depths'], blocks, cells, strict=True)
    )
    return CostTable(embedding, gate_macs, table, embedding + plain, tuple(cells), tuple(patches))


def open_share(table: CostTable, cost_ratio: float, image_size: tuple[int, int], row_stop: bool = False) -> float:
    """Probability of being open at which random routes cost ``cost_ratio`` times PVTv2 on average.

    Args:
        table: For images of this size.
        image_size: (height, width) in pixels, for the error.
        row_stop: Whether a row stays closed once all its tokens are.

    Raises:
        ValueError: If none does.
    """

    def expected_ratio(share: float) -> float:
        macs: float = table.embedding + table.gate
        alive: dict[int, float] = {}  # probability that a row goes on
        for edge, (static, per_token) in sorted(table.edges.items()):  # stage after stage in each row
            kind, row, _ = edge
            target = row + (kind == 'merge')
            count = table.num_tokens[target]
            any_open = 1 - (1 - share) ** (count / table.patches[target] ** 2)
            reached = alive.get(row, 1.0) if row_stop and kind == 'row' else 1.0
            macs += reached * (static * any_open + per_token * share * count)
            if kind == 'row':
                alive[row] = reached * any_open
        return macs / table.reference

    low, high = 0.0, 1.0
    if not expected_ratio(low) - 1e-6 <= cost_ratio <= expected_ratio(high) + 1e-6:  # up to rounding
        bounds = f'{expected_ratio(low):.3f} and {expected_ratio(high):.3f}'
        raise ValueError(f'cost_ratio must lie between {bounds} for images of {image_size}, got {cost_ratio}')
    while high - low > 1e-9:  # the cost rises with the share
        share = (low + high) / 2
        low, high = (share, high) if expected_ratio(share) < cost_ratio else (low, share)
    return low
