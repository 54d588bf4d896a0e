"""Gates of a routing space: one logit per token of each edge, above 0 = open. One interface, learned or not.

An edge is ``('row', i, j)``: stage j of row i, whose blocks transform the tokens; or ``('merge', i, j)``: in column j
the features of row i join those of row i + 1, one decision per token of row i + 1. Where squares of tokens are open or
closed as a whole, the gate sees their means instead.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.checks import check_in, check_range
from ..ops.maps import Size, to_map, to_tokens
from .base import CERTAIN, Gate

Edge = tuple[str, int, int]
FIXED_ROUTES = ('open', 'closed', 'staircase')
MERGE_STRIDES = (2, 2, 2)


class TokenGate(Gate):
    """Interface of the gates of a routing space: per token of each edge one logit, above 0 = open.

    Args:
        edges: Channels of the row that each gated edge starts from; the backbone fills them in.
        init_cfg: mmengine's recipe for the weights.

    Attributes:
        merge_strides: Cells a side of rows 0, 1 and 2 to one of the next row; others than 2 where cells are patches.
        needs_features: Whether the logits depend on the tokens, so that nothing is decided before these are there.
        early: Whether all edges that start from a row are decided when it begins, from its first features.
    """

    needs_features: bool = False
    early: bool = False

    def __init__(self, edges: Mapping[Edge, int], init_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(init_cfg)
        self.edges = dict(edges)
        self.merge_strides: tuple[int, ...] = MERGE_STRIDES

    def macs(self, tiling: Sequence[Size]) -> int:
        """Multiply-adds for one image whose rows have these sizes."""
        return sum(self.macs_per_token(edge) * math.prod(tiling[edge[1]]) for edge in self.edges)

    def macs_per_token(self, edge: Edge) -> int:
        """Multiply-adds for one token of the row that the edge starts from."""
        return 0

    def forward(self, edge: Edge, tokens: Tensor, size: Size) -> Tensor:
        """Logits of an edge.

        Args:
            edge: One of ``edges``.
            tokens: Of the row that the edge starts from, shape (B, h * w, C).
            size: (h, w) of that row.

        Returns:
            Shape (B, h * w) for a row's stage, (B, ceil(h / s) * ceil(w / s)) for a merge of stride s.
        """
        raise NotImplementedError

    def forward_all(self, edges: Sequence[Edge], tokens: Tensor, size: Size) -> Tensor:
        """Logits (edges, B, ...) of edges of one kind that start from the same row, as of :meth:`forward`."""
        return torch.stack([self(edge, tokens, size) for edge in edges])

    def num_decisions(self, edge: Edge, size: Size) -> int:
        """Decisions of one image on an edge that starts from a row of this size."""
        stride = self.merge_strides[edge[1]] if edge[0] == 'merge' else 1
        return math.prod(-(-side // stride) for side in size)


@MODELS.register_module()
class RouteGate(TokenGate):
    """The learned gate: on every edge a norm and one linear unit per token; a merge takes the mean over its sources.

    Args:
        edges: Channels of the row that each gated edge starts from; the backbone fills them in.
        initial_ratio: Share of open tokens at the start, in (0, 1).
        early: Decide all stages of a row, and where it joins the next, when the row begins: one evaluation for all, and
            the later ones do not see what the earlier ones made of the tokens.
        frozen: Keep the gate as loaded.
        init_cfg: mmengine's recipe for the weights.

    Raises:
        ValueError: If the share is out of its range.
    """

    examples = (dict(initial_ratio=0.5), dict(frozen=True), dict(initial_ratio=0.5, early=True))
    needs_features = True

    def __init__(
        self,
        edges: Mapping[Edge, int],
        initial_ratio: float = 0.95,
        early: bool = False,
        frozen: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(edges, init_cfg)
        check_in('(0, 1)', initial_ratio=initial_ratio)
        self.early = early
        self.logits = nn.ModuleDict({edge_name(edge): _token_logit(dims) for edge, dims in self.edges.items()})
        parts: Any = self.logits.values()
        for _, linear in parts:
            nn.init.trunc_normal_(linear.weight, std=0.01)
            nn.init.constant_(linear.bias, math.log(initial_ratio / (1 - initial_ratio)))
        self.requires_grad_(not frozen)

    def macs_per_token(self, edge: Edge) -> int:
        return self.edges[edge]

    def forward(self, edge: Edge, tokens: Tensor, size: Size) -> Tensor:
        norm, linear = cast(Iterable[Any], self.logits[edge_name(edge)])
        logits = linear(norm(tokens.to(linear.weight.dtype)))  # weights may be of half precision as well
        return self._means(edge, logits, size).squeeze(-1)

    def forward_all(self, edges: Sequence[Edge], tokens: Tensor, size: Size) -> Tensor:
        """The same in one product: the norms differ in scale and shift alone, which the weights take in."""
        norms, linears = zip(*(cast(Iterable[Any], self.logits[edge_name(edge)]) for edge in edges), strict=True)
        scale, shift = (torch.stack([getattr(norm, name) for norm in norms]) for name in ('weight', 'bias'))
        weight, bias = (torch.cat([getattr(linear, name) for linear in linears]) for name in ('weight', 'bias'))
        normed = F.layer_norm(tokens.to(weight.dtype), tokens.shape[-1:], eps=norms[0].eps)
        logits = F.linear(normed, weight * scale, (weight * shift).sum(1) + bias)
        return self._means(edges[0], logits, size).movedim(-1, 0)

    def _means(self, edge: Edge, logits: Tensor, size: Size) -> Tensor:
        """Over the sources of a merge, (B, h * w, edges) -> (B, tokens that are decided about, edges)."""
        stride = self.merge_strides[edge[1]] if edge[0] == 'merge' else 1
        if stride == 1:
            return logits
        return to_tokens(F.avg_pool2d(to_map(logits, size), stride, ceil_mode=True, count_include_pad=False))


@MODELS.register_module()
class RandomRoutes(TokenGate):
    """Every token of every edge is open with the same probability: the control of a learned gate at equal cost.

    Args:
        edges: The gated edges; the backbone fills them in.
        active_ratio: Probability in [0, 1], or a (low, high) range from which each image draws its own for each edge,
            so that the costs of images lie around their mean. The backbone's ``active_ratio_of`` gives the one that has
            a certain cost.

    Raises:
        ValueError: If a probability lies outside [0, 1].
    """

    examples = (dict(active_ratio=0.4), dict(active_ratio=(0.0, 1.0)))

    def __init__(self, edges: Mapping[Edge, int], active_ratio: float | tuple[float, float] = 0.5) -> None:
        super().__init__(edges)
        self.low, self.high = check_range('[0, 1]', active_ratio=active_ratio)

    def forward(self, edge: Edge, tokens: Tensor, size: Size) -> Tensor:
        shares = torch.empty(len(tokens), 1, device=tokens.device).uniform_(self.low, self.high)
        chance = torch.rand(len(tokens), self.num_decisions(edge, size), device=tokens.device)
        return torch.where(chance < shares, CERTAIN, -CERTAIN)


@MODELS.register_module()
class FixedRoutes(TokenGate):
    """The same routes for all images.

    Args:
        edges: The gated edges; the backbone fills them in.
        routes: ``'open'``: everything. ``'closed'``: stem and entries alone. ``'staircase'``: the stages (i, i), as in
            PVTv2, and no merge.

    Raises:
        ValueError: If the routes are none of these.
    """

    examples = tuple(dict(routes=routes) for routes in FIXED_ROUTES)

    def __init__(self, edges: Mapping[Edge, int], routes: str = 'open') -> None:
        super().__init__(edges)
        if routes not in FIXED_ROUTES:
            raise ValueError(f'routes must be one of {", ".join(map(repr, FIXED_ROUTES))}, got {routes!r}')
        self.routes = routes

    def forward(self, edge: Edge, tokens: Tensor, size: Size) -> Tensor:
        kind, row, stage = edge
        is_open = self.routes == 'open' or (self.routes == 'staircase' and kind == 'row' and row == stage)
        logit = CERTAIN if is_open else -CERTAIN
        return tokens.new_full((len(tokens), self.num_decisions(edge, size)), logit)


def edge_name(edge: Edge) -> str:
    """Name of an edge in a state dict.

    Example:
        >>> edge_name(('row', 0, 2))
        'row_0_2'
    """
    return '_'.join(map(str, edge))


def _token_logit(dims: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dims), nn.Linear(dims, 1))
