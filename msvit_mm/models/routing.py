"""Dynamic token routing: a grid of PVTv2 blocks in which every token has its own path through scales and depth."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops.gating import relaxed_gate_sample, straight_through
from ..ops.packing import Packing
from .pvt import (
    NUM_ROWS,
    PatchEmbed,
    PVTBlock,
    Size,
    add_at,
    arch_settings,
    block_macs,
    init_pvt_weights,
    to_map,
)
from .route_gates import Edge, build_route_gate

LAYOUTS = ('triangular', 'full')
MERGES = ('add', 'select', 'none')
TEST_EXECUTIONS = ('masked', 'sparse')
INITS = ('pvtv2', 'scratch')


class RouteOutput(NamedTuple):
    """Which way the tokens of a batch went, by edge (:mod:`~msvit_mm.models.route_gates`), and what it cost.

    Attributes:
        gate_values: Relaxed samples in [0, 1], with gradient where the gate learns, each of shape (B, rows, cols).
        decisions: 1 = open, 0 = closed, as executed, each of shape (B, rows, cols).
        num_tokens: Tokens that blocks transformed, summed over the nodes, integers, shape (B,).
        macs: Multiply-adds of each image, with gradient where the gate learns, float64, shape (B,).
        reference_macs: Multiply-adds of plain PVTv2 of the same architecture for an image of this size.
    """

    gate_values: dict[Edge, Tensor]
    decisions: dict[Edge, Tensor]
    num_tokens: Tensor
    macs: Tensor
    reference_macs: int

    @property
    def cost_ratio(self) -> Tensor:
        """Multiply-adds relative to PVTv2, shape (B,)."""
        return self.macs / self.reference_macs


class CostTable(NamedTuple):
    """Multiply-adds for images of one size.

    Attributes:
        embedding: Stem and entries, which every token takes.
        gate: All gates.
        edges: Of each gated edge what it costs once any of its tokens is open, and per open token.
        reference: Of plain PVTv2 of the same architecture.
    """

    embedding: int
    gate: int
    edges: dict[Edge, tuple[int, int]]
    reference: int

    @property
    def floor(self) -> float:
        """Cost with every gate closed, relative to ``reference``: no budget below it can be met."""
        return (self.embedding + self.gate) / self.reference


@MODELS.register_module()
class DynamicTokenRoutingTransformer(BaseModule):
    r"""PVTv2 unfolded into a routing space, after "DiT".

    Row i holds tokens of stride :math:`4 \cdot 2^i`. In every stage j the blocks of node (i, j) transform the row's
    open tokens and leave the others as they are. Between stages, open merges add the embedding of row i to row i + 1.
    The gate decides all that, token by token; with the stages (i, i) open and nothing else this is PVTv2.

    The paper's text was not at hand and its authors released no code: what its abstract and figures do not show is a
    choice made here, such as the gates' form and the way features merge.

    Args:
        arch: ``'b0'`` ... ``'b5'`` of PVTv2, or a dict of ``embed_dims``, ``depths``, ``mlp_ratios`` and, unless they
            are PVTv2's, ``num_heads`` and ``sr_ratios``, four values each.
        img_size: Image size in pixels for which a budget is checked; images of any other size do.
        num_stages: Stages S, at least 4.
        layout: ``'triangular'``: row i begins at stage i. ``'full'``: all rows begin at stage 0.
        extra_depth: Blocks of each node that PVTv2 has not.
        depth_matrix: Blocks of every node, rows by stages, instead; 0 = no node. Those before a row's begin count not.
        last_stages: Last stage of each row that has a node; by default S - 1 for all.
        merge: How an open merge joins: ``'add'``, with a learned scale per channel; ``'select'`` replaces the token;
            ``'none'``: there are no merges.
        final_merge: Whether rows merge after the last stage too.
        gate: Config of the gate: ``RouteGate``, ``RandomRoutes`` or ``FixedRoutes``.
        gate_temperature: Temperature of the relaxed gate sample, > 0.
        row_stop: A row all of whose tokens are closed at a stage of an image stays closed from there on.
        monotone: A token once closed stays closed in all later stages of its row.
        test_execution: ``'sparse'``: closed tokens cost nothing. ``'masked'``: all are computed; the same features.
        drop_path_rate: Stochastic depth, rising linearly as in PVTv2; further nodes have their row's last rate.
        out_indices: Rows whose maps are returned; row 3 among them.
        with_cp: Save memory in training by computing each block twice.
        init: ``'pvtv2'``: what PVTv2 has not begins as a no-op, for pretrained weights. ``'scratch'``: nothing does.
        init_cfg: mmengine's recipe for the weights.

    Raises:
        ValueError: If an argument has no meaning, with the accepted ones.

    Source: "DiT: Efficient Vision Transformers with Dynamic Token Routing", arXiv 2308.03409; blocks:
    Wang et al., "PVT v2", arXiv 2106.13797.

    Example:
        >>> model = DynamicTokenRoutingTransformer('b0', gate=dict(type='FixedRoutes', routes='staircase')).eval()
        >>> features, output = model.forward_gated(torch.rand(1, 3, 64, 96))
        >>> [tuple(x.shape[1:]) for x in features], output.num_tokens
        ([(32, 16, 24), (64, 8, 12), (160, 4, 6), (256, 2, 3)], tensor([510]))
    """

    out_type = 'featmap'

    def __init__(
        self,
        arch: str | dict = 'b2',
        img_size: int | tuple[int, int] = 224,
        num_stages: int = 5,
        layout: str = 'triangular',
        extra_depth: int = 1,
        depth_matrix: Sequence[Sequence[int]] | None = None,
        last_stages: Sequence[int] | None = None,
        merge: str = 'add',
        final_merge: bool = True,
        gate: dict | None = None,
        gate_temperature: float = 1.0,
        row_stop: bool = False,
        monotone: bool = False,
        test_execution: str = 'sparse',
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        with_cp: bool = False,
        init: str = 'scratch',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_choice('layout', layout, LAYOUTS)
        _check_choice('merge', merge, MERGES)
        _check_choice('test_execution', test_execution, TEST_EXECUTIONS)
        _check_choice('init', init, INITS)
        if num_stages < NUM_ROWS:
            raise ValueError(f'num_stages must be at least {NUM_ROWS}, got {num_stages}')
        if gate_temperature <= 0:
            raise ValueError(f'gate_temperature must be positive, got {gate_temperature}')
        if NUM_ROWS - 1 not in out_indices or not set(out_indices) <= set(range(NUM_ROWS)):
            raise ValueError(f'out_indices must be of rows 0 to 3 with 3 among them, got {tuple(out_indices)}')
        self.arch = arch_settings(arch)
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.num_stages = num_stages
        self.entries = tuple(range(NUM_ROWS)) if layout == 'triangular' else (0,) * NUM_ROWS
        self.merge = merge
        self.gate_temperature = gate_temperature
        self.row_stop = row_stop
        self.monotone = monotone
        self.test_execution = test_execution
        self.out_indices = tuple(out_indices)
        self.with_cp = with_cp
        depths = self._node_depths(extra_depth, depth_matrix, last_stages)

        dims = self.arch['embed_dims']
        self.stem = PatchEmbed(3, dims[0], kernel_size=7, stride=4)
        self.downsamples = nn.ModuleList(PatchEmbed(dims[i], dims[i + 1], 3, stride=2) for i in range(NUM_ROWS - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(c, eps=1e-6) for c in dims)
        rates = torch.linspace(0, drop_path_rate, sum(self.arch['depths']), device='cpu').split(self.arch['depths'])
        self.nodes = nn.ModuleDict()
        for (i, j), depth in depths.items():
            row_rates = rates[i].tolist()
            node_rates = [row_rates[min(b, len(row_rates) - 1)] if i == j else row_rates[-1] for b in range(depth)]
            self.nodes[f'{i}_{j}'] = nn.ModuleList(self._make_block(i, rate) for rate in node_rates)
        merges = {
            (i, j): dims[i + 1]
            for j in range(num_stages + final_merge)
            for i in range(NUM_ROWS - 1)
            if merge != 'none' and j > self.entries[i + 1]
        }
        self.merge_scales = nn.ParameterDict()
        if merge == 'add':
            start = 0.0 if init == 'pvtv2' else 0.1
            self.merge_scales = nn.ParameterDict(
                {f'{i}_{j}': nn.Parameter(torch.full((c,), start)) for (i, j), c in merges.items()}
            )
        self.apply(init_pvt_weights)
        if init == 'pvtv2':
            self._close_further_nodes()
        edges = {('row', i, j): dims[i] for i, j in depths} | {('merge', i, j): dims[i] for i, j in merges}
        self.gate = build_route_gate(gate or dict(type='RouteGate'), edges)

    def _node_depths(
        self, extra_depth: int, matrix: Sequence[Sequence[int]] | None, last_stages: Sequence[int] | None
    ) -> dict[tuple[int, int], int]:
        """Number of blocks of every node."""
        num_stages = self.num_stages
        if matrix is None:
            matrix = [
                [self.arch['depths'][i] if i == j else extra_depth for j in range(num_stages)] for i in range(NUM_ROWS)
            ]
        shape = [len(row) for row in matrix]
        if shape != [num_stages] * NUM_ROWS:
            raise ValueError(
                f'depth_matrix must have {NUM_ROWS} rows of {num_stages} stages, got rows of lengths {shape}'
            )
        last_stages = [num_stages - 1] * NUM_ROWS if last_stages is None else list(last_stages)
        if len(last_stages) != NUM_ROWS:
            raise ValueError(f'last_stages must give a stage for each of {NUM_ROWS} rows, got {last_stages}')
        depths = {
            (i, j): depth
            for i, row in enumerate(matrix)
            for j, depth in enumerate(row)
            if self.entries[i] <= j <= last_stages[i] and depth
        }
        if any(depth < 0 for depth in depths.values()):
            raise ValueError(f'depths must not be negative, got {[list(row) for row in matrix]}')
        return depths

    def _make_block(self, row: int, drop_path: float) -> PVTBlock:
        dims, heads, mlp_ratio, sr_ratio = (
            self.arch[name][row] for name in ('embed_dims', 'num_heads', 'mlp_ratios', 'sr_ratios')
        )
        return PVTBlock(dims, heads, mlp_ratio, sr_ratio, drop_path)

    def _close_further_nodes(self) -> None:
        """Let the blocks that PVTv2 has not return their input."""
        for name, blocks in self.nodes.items():
            if len(set(name.split('_'))) > 1:
                for block in blocks:
                    for layer in (block.attn.proj, block.mlp.fc2):
                        nn.init.zeros_(layer.weight)

    def forward(self, images: Tensor, decisions: Mapping[Edge, Tensor] | None = None) -> tuple[Tensor, ...]:
        """Feature maps of :meth:`forward_gated` alone."""
        return self.forward_gated(images, decisions)[0]

    def forward_gated(
        self, images: Tensor, decisions: Mapping[Edge, Tensor] | None = None
    ) -> tuple[tuple[Tensor, ...], RouteOutput]:
        """Feature maps and the routes.

        Args:
            images: Normalised images of any size of 29 pixels or more, shape (B, 3, H, W).
            decisions: 1 = open, 0 = closed, instead of the gate's on these edges, each of shape (B, rows, cols).

        Returns:
            A map (B, C_i, ceil(H / stride_i), ceil(W / stride_i)) for each row of ``out_indices``; a RouteOutput.

        Raises:
            ValueError: If images or decisions have the wrong shape or values.
        """
        sizes = self._check_images(images)
        decider = _Decider(self, sizes, self._check_decisions(decisions or {}, len(images), sizes))
        sparse = not self.training and self.test_execution == 'sparse'
        rows: list[Tensor] = [self.stem(images), *[images.new_empty(0)] * (NUM_ROWS - 1)]
        for j in range(self.num_stages + 1):
            for i in range(NUM_ROWS - 1):
                if j == self.entries[i + 1]:
                    rows[i + 1] = self.downsamples[i](to_map(self.norms[i](rows[i]), sizes[i]))
                elif ('merge', i, j) in self.gate.edges:
                    gate = decider.decide(('merge', i, j), rows[i])
                    rows[i + 1] = self._merge(i, j, rows[i], rows[i + 1], gate, sizes[i], sparse)
            for i in range(NUM_ROWS):
                if ('row', i, j) in self.gate.edges:
                    gate = decider.decide(('row', i, j), rows[i])
                    rows[i] = self._transform(i, j, rows[i], gate, sizes[i], sparse)
        maps = tuple(to_map(self.norms[i](rows[i]), sizes[i]).contiguous() for i in self.out_indices)
        return maps, decider.output(self.cost_table(tuple(images.shape[-2:])))

    def _transform(self, i: int, j: int, tokens: Tensor, gate: Tensor, size: Size, sparse: bool) -> Tensor:
        """Node (i, j): (B, N, C) -> (B, N, C)."""
        blocks = self.nodes[f'{i}_{j}']
        if not sparse:
            gate = gate.unsqueeze(-1).to(tokens.dtype)
            for block in blocks:
                run = partial(checkpoint, block, use_reentrant=False) if self.with_cp and self.training else block
                tokens = run(tokens, gate, size)
            return tokens
        active = gate.bool()
        images = active.any(1).nonzero().squeeze(1)
        if not len(images):
            return tokens
        every_image = len(images) == len(tokens)
        some = tokens if every_image else tokens[images]
        packing = Packing.select(active[images])
        for block in blocks:
            some = block.forward_sparse(some, packing, size)
        return some if every_image else tokens.index_copy(0, images, some)

    def _merge(self, i: int, j: int, source: Tensor, target: Tensor, gate: Tensor, size: Size, sparse: bool) -> Tensor:
        """Row i joins row i + 1 in column j: (B, N_i, C_i), (B, N_(i+1), C_(i+1)) -> (B, N_(i+1), C_(i+1))."""
        embed, normed = self.downsamples[i], to_map(self.norms[i](source), size)
        scale = self.merge_scales[f'{i}_{j}'] if self.merge == 'add' else 1.0
        if not sparse:
            gate = gate.unsqueeze(-1).to(target.dtype)
            kept = target if self.merge == 'add' else (1 - gate) * target
            return kept + scale * gate * embed(normed)
        packing = Packing.select(gate.bool())
        if not len(packing.index):
            return target
        branch = scale * embed.forward_sparse(normed, packing)
        return add_at(target, branch if self.merge == 'add' else branch - packing.pack(target), packing)

    def cost_table(self, image_size: tuple[int, int]) -> CostTable:
        """Multiply-adds of each part for images of this (height, width); norms, softmax and biases are not counted."""
        dims, depths, sizes = self.arch['embed_dims'], self.arch['depths'], row_sizes(image_size)
        cells = [math.prod(size) for size in sizes]
        blocks = [
            block_macs(c, int(c * mlp_ratio), sr_ratio, size)
            for c, mlp_ratio, sr_ratio, size in zip(
                dims, self.arch['mlp_ratios'], self.arch['sr_ratios'], sizes, strict=True
            )
        ]
        entries = [9 * dims[i] * dims[i + 1] for i in range(NUM_ROWS - 1)]  # per token of row i + 1
        embedding = 147 * dims[0] * cells[0] + sum(e * n for e, n in zip(entries, cells[1:], strict=True))
        edges = {}
        for edge in self.gate.edges:
            kind, i, j = edge
            depth = len(self.nodes[f'{i}_{j}']) if kind == 'row' else 0
            edges[edge] = tuple(depth * macs for macs in blocks[i]) if depth else (0, entries[i])
        gate = sum(self.gate.macs_per_token(edge) * cells[edge[1]] for edge in self.gate.edges)
        plain = sum(
            depth * (static + per_token * n)
            for depth, (static, per_token), n in zip(depths, blocks, cells, strict=True)
        )
        return CostTable(embedding, gate, edges, embedding + plain)

    def active_ratio_of(self, cost_ratio: float, image_size: tuple[int, int]) -> float:
        """Probability of being open at which random routes cost ``cost_ratio`` times PVTv2 on average.

        Raises:
            ValueError: If none does.

        Example:
            >>> model = DynamicTokenRoutingTransformer('b0', gate=dict(type='RandomRoutes'))
            >>> round(model.active_ratio_of(1.0, (224, 224)), 3)
            0.293
        """
        table, sizes = self.cost_table(image_size), row_sizes(image_size)
        counts = {(kind, i, j): math.prod(sizes[i + (kind == 'merge')]) for kind, i, j in table.edges}

        def expected_ratio(share: float) -> float:
            macs = table.embedding + table.gate
            for edge, (static, per_token) in table.edges.items():
                macs += static * (1 - (1 - share) ** counts[edge]) + per_token * share * counts[edge]
            return macs / table.reference

        low, high = 0.0, 1.0
        if not expected_ratio(low) - 1e-6 <= cost_ratio <= expected_ratio(high) + 1e-6:  # up to rounding
            bounds = f'{expected_ratio(low):.3f} and {expected_ratio(high):.3f}'
            raise ValueError(f'cost_ratio must lie between {bounds} for images of {image_size}, got {cost_ratio}')
        while high - low > 1e-9:  # the cost rises with the share
            share = (low + high) / 2
            low, high = (share, high) if expected_ratio(share) < cost_ratio else (low, share)
        return low

    def _check_images(self, images: Tensor) -> list[Size]:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f'images must be floating point of shape (B, 3, H, W), got {images.dtype} of {tuple(images.shape)}'
            )
        if not images.isfinite().all():
            bad = (~images.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
            raise ValueError(f'images must be finite, got NaN or infinity in image(s) {bad} of the batch')
        sizes = row_sizes(tuple(images.shape[-2:]))
        if any(min(size) < sr_ratio for size, sr_ratio in zip(sizes, self.arch['sr_ratios'], strict=True)):
            raise ValueError(
                f'images must be large enough for one key on every row (sr_ratios {self.arch["sr_ratios"]}), '
                f'got {images.shape[2]}x{images.shape[3]} pixels'
            )
        return sizes

    def _check_decisions(self, decisions: Mapping[Edge, Tensor], batch: int, sizes: list[Size]) -> dict[Edge, Tensor]:
        for edge, given in decisions.items():
            if edge not in self.gate.edges:
                raise ValueError(f'decisions must be on edges of this routing space, {[*self.gate.edges]}, got {edge}')
            wanted = (batch, *sizes[edge[1] + (edge[0] == 'merge')])
            if tuple(given.shape) != wanted:
                raise ValueError(f'decisions on {edge} must have shape {wanted}, got {tuple(given.shape)}')
            if not ((given == 0) | (given == 1)).all():
                raise ValueError(f'decisions must be 0 (closed) or 1 (open), got {given.unique().tolist()[:8]}')
        return dict(decisions)


class _Decider:
    """The decisions of one forward pass, in the order in which they fall."""

    def __init__(self, backbone: DynamicTokenRoutingTransformer, sizes: list[Size], stated: dict[Edge, Tensor]) -> None:
        self.backbone = backbone
        self.sizes = sizes
        self.stated = stated
        self.gate_values: dict[Edge, Tensor] = {}
        self.decisions: dict[Edge, Tensor] = {}
        self.previous: dict[int, Tensor] = {}  # of the row's last stage
        self.alive: dict[int, Tensor] = {}  # whether the row goes on, (B, 1)

    def decide(self, edge: Edge, tokens: Tensor) -> Tensor:
        """Decisions with the gate's gradient, (B, N, C) -> (B, N')."""
        kind, row, _ = edge
        gate, size = self.backbone.gate, self.sizes[row]
        with torch.autocast(tokens.device.type, enabled=False):
            logits = gate(edge, tokens.to(torch.promote_types(tokens.dtype, torch.float32)), size)
        learning = self.backbone.training and gate.learnable
        values = relaxed_gate_sample(logits, self.backbone.gate_temperature, noise=learning)
        decisions = self.stated[edge].flatten(1).to(values) if edge in self.stated else straight_through(values)
        if kind == 'row':
            decisions = self._bound_by_earlier(row, decisions)
        self.gate_values[edge], self.decisions[edge] = values, decisions
        return decisions

    def _bound_by_earlier(self, row: int, decisions: Tensor) -> Tensor:
        if self.backbone.monotone and row in self.previous:
            decisions = decisions * self.previous[row]
        if self.backbone.row_stop:
            decisions = decisions * self.alive.get(row, 1.0)
            self.alive[row] = decisions.detach().amax(1, keepdim=True)
        self.previous[row] = decisions
        return decisions

    def output(self, table: CostTable) -> RouteOutput:
        macs = table.embedding + table.gate
        num_tokens = 0
        for edge, (static, per_token) in table.edges.items():
            decisions = self.decisions[edge].double()
            macs = macs + static * decisions.amax(1) + per_token * decisions.sum(1)
            if edge[0] == 'row':
                num_tokens = num_tokens + decisions.detach().sum(1).long()
        as_maps = [
            {(kind, i, j): x.unflatten(1, self.sizes[i + (kind == 'merge')]) for (kind, i, j), x in values.items()}
            for values in (self.gate_values, {edge: x.detach() for edge, x in self.decisions.items()})
        ]
        return RouteOutput(*as_maps, num_tokens, macs, table.reference)


def row_sizes(image_size: tuple[int, int]) -> list[Size]:
    """(h, w) of the four rows for an image of (height, width) pixels.

    Example:
        >>> row_sizes((100, 132))
        [(25, 33), (13, 17), (7, 9), (4, 5)]
    """
    sizes = [tuple(-(-side // 4) for side in image_size)]
    for _ in range(NUM_ROWS - 1):
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    return sizes


def _check_choice(name: str, value: object, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(f'{name} must be one of {", ".join(map(repr, choices))}, got {value!r}')
