"""Dynamic token routing: a grid of PVTv2 blocks in which every token has its own path through scales and depth."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..gates import Gate, StatedRoutes, TokenGate, build_gate
from ..gates.route import Edge
from ..ops.checks import check_decisions, check_in
from ..ops.gating import relaxed_gate_sample, straight_through, threshold, with_zero_gradients, zero_with_gradient
from ..ops.maps import Size, add_at, mean_of_cells, spread, to_map
from ..ops.packing import Packing
from ..ops.patches import OpenTokens
from . import executions
from .base import ChoiceMap, Costs, Features, GatedBackbone, check_choice, check_images, height_and_width, image_size
from .pvt import NUM_ROWS, PatchEmbed, PlainPVT, PVTBlock, arch_settings, init_pvt_weights, row_sizes
from .route_costs import CostTable, make_cost_table, open_share

MERGES = ('add', 'select', 'none')
INITS = ('pvtv2', 'scratch')
ROUTE_PATCHES = (1, 2, 4, 8)
MOSTLY_OPEN = 0.75  # share of a node's tokens from which on a training step is as fast with all of them


class RouteOutput(NamedTuple):
    """Which way the tokens of a batch went, by edge (:mod:`~msvit_mm.gates.route`), and what it cost.

    Attributes:
        gate_values: Relaxed samples in [0, 1], with gradient where the gate learns, each of shape (B, rows, cols).
        decisions: 1 = open, 0 = closed, as executed, each of shape (B, rows, cols).
        num_tokens: Tokens that blocks transformed, summed over the nodes, integers, shape (B,).
        costs: Multiply-adds of each image, with gradient where the gate learns.
        budgeted: What budgets count of each image, relative to PVTv2, likewise, shape (B,).
    """

    gate_values: dict[Edge, Tensor]
    decisions: dict[Edge, Tensor]
    num_tokens: Tensor
    costs: Costs
    budgeted: Tensor

    def maps(self) -> dict[str, ChoiceMap]:
        """``routes_s4`` ... ``routes_s32``, a channel per stage, and ``merges_s8`` ... ``merges_s32``, one per column.

        1 = open, 0 = closed, NaN where the routing space has no such edge.
        """
        maps = {}
        num_stages = max(j + (kind == 'row') for kind, _, j in self.decisions)
        for kind, name, count, first in (('row', 'routes', num_stages, 0), ('merge', 'merges', num_stages + 1, 1)):
            for i in range(NUM_ROWS - first):
                gated = {j: x for (k, row, j), x in self.decisions.items() if (k, row) == (kind, i)}
                if gated:
                    absent = torch.full_like(next(iter(gated.values())), torch.nan)
                    stride = 4 * 2 ** (i + first)
                    stacked = torch.stack([gated.get(j, absent) for j in range(count)], dim=1)
                    maps[f'{name}_s{stride}'] = ChoiceMap(stacked, stride, name)
        return maps

    def loss_input(self) -> Tensor:
        """Cost of every image relative to PVTv2, as budgets count it."""
        return self.budgeted

    def statistics(self) -> dict[str, Tensor]:
        """Mean and deviation over the images of the cost, and the share of open tokens by row."""
        ratios = self.costs.cost_ratio.detach().float()
        scalars = dict(cost_ratio=ratios.mean(), cost_ratio_std=ratios.std(correction=0))
        for i in range(NUM_ROWS):
            shares = [x.mean() for (kind, row, _), x in self.decisions.items() if (kind, row) == ('row', i)]
            if shares:
                scalars[f'active_s{4 * 2**i}'] = torch.stack(shares).mean()
        return scalars

    def zero(self) -> Tensor:
        """Zero with a path to every parameter of the gate."""
        return 0 * reduce(torch.add, (values.sum() for values in self.gate_values.values()))


@MODELS.register_module()
class DynamicTokenRoutingTransformer(GatedBackbone, BaseModule):
    r"""PVTv2 unfolded into a routing space, after "DiT".

    Row i holds tokens of stride :math:`4 \cdot 2^i` and begins at stage i. In every stage j the blocks of node (i, j)
    transform the row's open tokens and leave the others as they are. Between stages, open merges add the embedding of
    row i to row i + 1. The gate decides all that, token by token; with the stages (i, i) open and nothing else this is
    PVTv2.

    The paper's text was not at hand and its authors released no code: what its abstract and figures do not show is a
    choice made here, such as the gates' form and the way features merge.

    Args:
        arch: ``'b0'`` ... ``'b5'`` of PVTv2, or a dict of ``embed_dims``, ``depths``, ``mlp_ratios`` and, unless they
            are PVTv2's, ``num_heads`` and ``sr_ratios``, four values each.
        img_size: Image size in pixels for which a budget is checked; images of any other size do.
        num_stages: Stages S, at least 4.
        extra_depth: Blocks of each node that PVTv2 has not; 0 = there are no such nodes.
        merge: How an open merge joins: ``'add'``, with a learned scale per channel; ``'select'`` replaces the token;
            ``'none'``: there are no merges.
        gate: Config of the gate: ``RouteGate``, ``RandomRoutes`` or ``FixedRoutes``.
        gate_temperature: Temperature of the relaxed gate sample, > 0.
        route_patch: Tokens of row 0 are open or closed in squares of this side, 1, 2, 4 or 8, those of the other rows
            in the same squares of the image, down to one token. The larger, the faster a stage that is partly open.
        row_stop: A row all of whose tokens are closed at a stage of an image stays closed from there on.
        cost_budget: Multiply-adds of each image in evaluation mode, relative to PVTv2's, whatever the gate's mean: on
            every edge, in the order in which decisions fall, the tokens that the gate wants open up, the most wanted
            first, until the budget is used up. None: all that it wants. Given decisions overrule it.
        row_weights: How much a multiply-add of each row counts in budgets, in training and in ``cost_budget``: in time,
            say, those of row 0 cost 1.5 to 3.5 times as much as those of rows 2 and 3 (docs/routes.md). Reported costs
            are not weighted.
        train_execution: ``'masked'``: all tokens of all nodes are computed. ``'counterfactual'``: the open ones and,
            without backward, a share of the closed ones, from which the gate learns; the same features, and gradients
            that are the same in expectation.
        counterfactual_share: That share, in (0, 1]. Its root is the probability that a step draws on an edge at all,
            and the share of the squares that it then draws there in each image.
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

    gate_family = TokenGate
    gate_statement = 'cost_ratio'
    default_gate: ClassVar[dict[str, Any]] = dict(type='RouteGate')
    default_warmup_gate: ClassVar[dict[str, Any]] = dict(type='RandomRoutes', active_ratio=(0.0, 1.0))
    train_executions = ('masked', 'counterfactual')
    test_executions = ('masked', 'sparse')
    additions = r'gate\..+|merge_scales\..+|nodes\.(\d)_(?!\1\.).+'
    weight_families = ('timm PVTv2', 'PVTv2')
    collection = 'DiT'
    paper: ClassVar[dict[str, str]] = dict(
        Title='DiT: Efficient Vision Transformers with Dynamic Token Routing', URL='https://arxiv.org/abs/2308.03409'
    )

    downsamples: Any  # lists and dicts of modules, whose types torch does not know
    norms: Any
    nodes: Any

    def __init__(
        self,
        arch: str | dict[str, Any] = 'b2',
        img_size: int | tuple[int, int] = 224,
        num_stages: int = 5,
        extra_depth: int = 1,
        merge: str = 'add',
        gate: dict[str, Any] | None = None,
        gate_temperature: float = 1.0,
        route_patch: int = 1,
        row_stop: bool = False,
        cost_budget: float | None = None,
        row_weights: Sequence[float] = (1.0,) * NUM_ROWS,
        train_execution: str = 'masked',
        counterfactual_share: float = 0.1,
        test_execution: str = 'sparse',
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        with_cp: bool = False,
        init: str = 'scratch',
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_choice('merge', merge, MERGES)
        check_choice('route_patch', route_patch, ROUTE_PATCHES)
        check_choice('train_execution', train_execution, self.train_executions)
        check_choice('test_execution', test_execution, self.test_executions)
        check_choice('init', init, INITS)
        check_in(f'[{NUM_ROWS}, inf)', num_stages=num_stages)
        check_in('[0, inf)', extra_depth=extra_depth)
        check_in('(0, inf)', gate_temperature=gate_temperature)
        if cost_budget is not None:
            check_in('(0, inf)', cost_budget=cost_budget)
        check_in('(0, 1]', counterfactual_share=counterfactual_share)
        check_in('[0, 1)', drop_path_rate=drop_path_rate)
        if len(row_weights) != NUM_ROWS or not all(weight > 0 for weight in row_weights):
            raise ValueError(f'row_weights must be {NUM_ROWS} positive numbers, got {row_weights}')
        if NUM_ROWS - 1 not in out_indices or not set(out_indices) <= set(range(NUM_ROWS)):
            raise ValueError(f'out_indices must be of rows 0 to 3 with 3 among them, got {tuple(out_indices)}')
        self.arch = arch_settings(arch)
        self.img_size = height_and_width(img_size)
        self.num_stages = num_stages
        self.merge = merge
        self.gate_temperature = gate_temperature
        self.patches = tuple(max(1, route_patch >> i) for i in range(NUM_ROWS))
        self.row_stop = row_stop
        self.cost_budget = cost_budget
        self.row_weights = tuple(row_weights)
        self.train_execution = train_execution
        self.counterfactual_share = counterfactual_share
        self.test_execution = test_execution
        self.out_indices = tuple(out_indices)
        self.with_cp = with_cp
        depths = {
            (i, j): depth
            for i in range(NUM_ROWS)
            for j in range(i, num_stages)
            if (depth := self.arch['depths'][i] if i == j else extra_depth)
        }

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
            for j in range(num_stages + 1)
            for i in range(NUM_ROWS - 1)
            if merge != 'none' and j > i + 1
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
        self.edges = {('row', i, j): dims[i] for i, j in depths} | {('merge', i, j): dims[i] for i, j in merges}
        self.gate = self.build_gate(gate or self.default_gate)

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        arch = dict(embed_dims=(8, 16, 40, 64), depths=(1, 2, 1, 1), mlp_ratios=(2, 2, 2, 2))
        gate = dict(type='RouteGate', initial_ratio=0.5)
        words = dict(arch=arch, img_size=(64, 96), gate=gate, drop_path_rate=0.0, counterfactual_share=1.0)
        return {
            'plain': words,
            'row stop, select': words | dict(row_stop=True, merge='select', num_stages=4, out_indices=(1, 3)),
        }

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

    @torch.compiler.disable  # every edge would be compiled again, and its tokens' number depends on values
    def forward_gated(
        self, images: Tensor, decisions: Mapping[Edge, Tensor] | None = None
    ) -> tuple[Features, RouteOutput]:
        """Feature maps and the routes.

        Args:
            images: Normalised images of any size of 29 pixels or more, shape (B, 3, H, W).
            decisions: 1 = open, 0 = closed, instead of the gate's on these edges, each of shape (B, rows, cols).

        Returns:
            A map (B, C_i, ceil(H / stride_i), ceil(W / stride_i)) for each row of ``out_indices``; a RouteOutput.

        Raises:
            ValueError: If images or decisions have the wrong shape or values.
        """
        sizes = self._row_sizes(images)
        decider = _Decider(self, image_size(images), self._check_decisions(decisions or {}, len(images), sizes))
        rows: list[Tensor] = [self.stem(images), *[images.new_empty(0)] * (NUM_ROWS - 1)]
        for j in range(self.num_stages + 1):
            for i in range(NUM_ROWS - 1):
                if j == i + 1:
                    rows[i + 1] = self.downsamples[i](to_map(self.norms[i](rows[i]), sizes[i]))
                elif ('merge', i, j) in self.edges:
                    gate = decider.decide(('merge', i, j), rows[i])
                    if gate is not None:
                        rows[i + 1] = self._merge(i, j, rows[i], rows[i + 1], gate, sizes[i : i + 2])
            for i in range(NUM_ROWS):
                if ('row', i, j) in self.edges:
                    gate = decider.decide(('row', i, j), rows[i])
                    if gate is not None:
                        rows[i] = self._transform(i, j, rows[i], gate, sizes[i])
        maps = tuple(to_map(self.norms[i](rows[i]), sizes[i]).contiguous() for i in self.out_indices)
        return maps, decider.output()

    @property
    def _execution(self) -> str:
        return self.train_execution if self.training else self.test_execution

    def _transform(self, i: int, j: int, tokens: Tensor, gate: Tensor, size: Size) -> Tensor:
        """Node (i, j) under decisions (B, patches): (B, N, C) -> (B, N, C)."""
        blocks: Any = self.nodes[f'{i}_{j}']
        if self._execution == 'sparse':
            return self._transform_open(blocks, tokens, gate.bool(), size, self.patches[i])
        recompute = partial(checkpoint, use_reentrant=False) if self.with_cp and self.training else _call
        of_tokens = spread(gate, size, self.patches[i]).flatten(1).unsqueeze(-1).to(tokens.dtype)
        opened = None
        if self._execution == 'counterfactual':
            opened = OpenTokens.select(gate.detach().bool(), size, self.patches[i])
        if opened is None or opened.share > MOSTLY_OPEN:
            for block in blocks:
                tokens = recompute(block, tokens, of_tokens, size)
            return tokens
        others, weight = self._draw_closed(gate, size, self.patches[i])
        if not len(opened):
            tokens = with_zero_gradients(tokens, *blocks.parameters())
        if len(opened) or len(others):
            for block in blocks:
                tokens = recompute(block.forward_counterfactual, tokens, of_tokens, opened, others, weight)
        return tokens

    def _transform_open(self, blocks: Any, tokens: Tensor, is_open: Tensor, size: Size, patch: int) -> Tensor:
        """The open tokens alone, of the images that have any."""
        images = is_open.any(1).nonzero().squeeze(1)
        if not len(images):
            return tokens
        every_image = len(images) == len(tokens)
        some = tokens if every_image else tokens[images]
        opened = OpenTokens.select(is_open if every_image else is_open[images], size, patch)
        for block in blocks:
            some = block.forward_plain(some, size) if opened.are_all else block.forward_sparse(some, opened)
        return some if every_image else tokens.index_copy(0, images, some)

    def _draw_closed(self, gate: Tensor, size: Size, patch: int) -> tuple[OpenTokens, float]:
        """Tokens of which the gate is to learn what opening them would bring, and how much each counts."""
        root, drawn, weight = self.counterfactual_share**0.5, torch.ones_like(gate.detach()), float(gate.requires_grad)
        if weight and root < 1:
            drawn, weight = executions.draw_regions(drawn, root), executions.draw_at_all(root)
            weight /= drawn.mean().item()
        return OpenTokens.select((gate.detach() == 0) & drawn.bool() & (weight > 0), size, patch), weight

    def _merge(self, i: int, j: int, source: Tensor, target: Tensor, gate: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Row i joins row i + 1 in column j: (B, N_i, C_i), (B, N_(i+1), C_(i+1)) -> (B, N_(i+1), C_(i+1))."""
        embed, norm, patch = self.downsamples[i], self.norms[i], self.patches[i + 1]
        scale = self.merge_scales[f'{i}_{j}'] if self.merge == 'add' else 1.0
        if self._execution == 'sparse' and not gate.any():
            return target
        of_tokens = spread(gate, sizes[1], patch).flatten(1).unsqueeze(-1).to(target.dtype)
        if self._execution == 'masked':
            kept = target if self.merge == 'add' else (1 - of_tokens) * target
            return kept + scale * of_tokens * embed(to_map(norm(source), sizes[0]))

        def difference(packing: Packing) -> Tensor:
            branch = scale * embed.forward_sparse(source, norm, sizes[0], packing)
            return branch if self.merge == 'add' else branch - packing.pack(target)

        opened = OpenTokens.select(gate.detach().bool(), sizes[1], patch).packing
        merged = target
        if len(opened.index):
            merged = add_at(target, opened.pack(of_tokens) * difference(opened), opened)
        if self._execution == 'sparse':
            return merged
        others, weight = self._draw_closed(gate, sizes[1], patch)
        if not len(opened.index) and self.merge == 'add':
            merged = merged + 0 * scale
        if len(others):
            with torch.no_grad():
                branch = difference(others.packing)
            pull = others.packing.pack(weight * zero_with_gradient(of_tokens))
            merged = add_at(merged, pull * branch, others.packing)
        return merged

    # What it costs

    def cost_table(self, image_size: tuple[int, int], row_weights: Sequence[float] = (1,) * NUM_ROWS) -> CostTable:
        """Multiply-adds of each part for images of this (height, width); norms, softmax and biases are not counted."""
        depths = {edge: len(self.nodes[f'{edge[1]}_{edge[2]}']) for edge in self.edges if edge[0] == 'row'}
        gate_macs = self.gate.macs(self._grids(image_size))
        sizes = row_sizes(image_size)
        return make_cost_table(self.arch, sizes, self.edges, depths, gate_macs, self.patches, row_weights)

    def budget_table(self, image_size: tuple[int, int]) -> CostTable:
        """What budgets count of each part: its multiply-adds, weighted by rows."""
        return self.cost_table(image_size, self.row_weights)

    def _grids(self, image_size: tuple[int, int]) -> list[Size]:
        """(rows, cols) of the patches of the four rows.

        Raises:
            ValueError: If the patches of a row do not fill it.
        """
        sizes = row_sizes(image_size)
        for row, (size, patch) in enumerate(zip(sizes, self.patches, strict=True)):
            if size[0] % patch or size[1] % patch:
                raise ValueError(
                    f'route_patch={self.patches[0]}: wanted {patch}x{patch} tokens to divide row {row}, '
                    f'got {size[0]}x{size[1]} tokens of images of {image_size[0]}x{image_size[1]} pixels'
                )
        return [(rows // p, cols // p) for (rows, cols), p in zip(sizes, self.patches, strict=True)]

    def costs_of(self, decisions: Mapping[Edge, Tensor], image_size: tuple[int, int]) -> Costs:
        flat = {edge: self._of_patches(edge, x).flatten(1) for edge, x in decisions.items()}
        return self.cost_table(image_size).costs(self._stopped(flat) if self.row_stop else flat)

    def _stopped(self, decisions: Mapping[Edge, Tensor]) -> dict[Edge, Tensor]:
        """Decisions (B, patches) as a pass executes them: closed in a row from the first stage on that nobody opens."""
        executed = dict(decisions)
        alive: dict[int, Any] = dict.fromkeys(range(NUM_ROWS), 1)
        for edge in sorted((edge for edge in decisions if edge[0] == 'row'), key=lambda edge: edge[2]):
            executed[edge] = decisions[edge] * alive[edge[1]]
            alive[edge[1]] = executed[edge].amax(1, keepdim=True)
        return executed

    def dense_costs(self, image_size: tuple[int, int]) -> Costs:
        return self.cost_table(image_size).dense

    def active_ratio_of(self, cost_ratio: float, image_size: tuple[int, int]) -> float:
        """Probability of being open at which random routes cost ``cost_ratio`` times PVTv2 on average.

        Raises:
            ValueError: If none does.

        Example:
            >>> model = DynamicTokenRoutingTransformer('b0', gate=dict(type='RandomRoutes'))
            >>> round(model.active_ratio_of(1.0, (224, 224)), 3)
            0.293
        """
        return open_share(self.cost_table(image_size), cost_ratio, image_size, self.row_stop)

    # What models, tools and tests ask

    def build_gate(self, config: dict[str, Any]) -> Gate:
        gate: Any = build_gate(config, self.gate_family, edges=self.edges)
        gate.merge_strides = tuple(2 * after // patch for patch, after in pairwise(self.patches))
        return gate

    def build_gate_loss(self, config: dict[str, Any]) -> nn.Module:
        """Build a BudgetLoss.

        Raises:
            ValueError: If it is none, or its budget is less than stem, entries and gates cost.
        """
        loss: Any = super().build_gate_loss(config)
        floor = self.budget_table(self.img_size).floor
        if loss.budget <= floor:
            raise ValueError(
                f'budget must lie above {floor:.3f}, what stem, entries and gates cost of PVTv2 for images of '
                f'{self.img_size[0]}x{self.img_size[1]} pixels, got {loss.budget}'
            )
        return loss

    def draw_decisions(self, gate: TokenGate, images: Tensor) -> dict[Edge, Tensor]:
        if gate.needs_features:
            got = type(gate).__name__
            raise ValueError(f'decisions without features: wanted RandomRoutes, FixedRoutes or the like, got {got}')
        grids, nothing = self._grids(image_size(images)), images.new_empty(len(images), 0, 0)
        decisions = {edge: threshold(gate(edge, nothing, grids[edge[1]]).sigmoid()) for edge in gate.edges}
        sizes = row_sizes(image_size(images))
        return self._of_tokens(decisions, sizes)

    def state_decisions(self, decisions: Mapping[Edge, Tensor]) -> Gate:
        return StatedRoutes(self.gate, {edge: self._of_patches(edge, x) for edge, x in decisions.items()})

    def _of_tokens(self, by_edge: Mapping[Edge, Tensor], sizes: Sequence[Size]) -> dict[Edge, Tensor]:
        """Values of the patches that edges lead to, for each token, (B, ...) -> (B, rows, cols)."""
        of_tokens: dict[Edge, Tensor] = {}
        for row, size in enumerate(sizes):  # all edges of a row at once: each alone is a handful of small operators
            edges = [edge for edge in by_edge if _target_row(edge) == row]
            if edges:
                stacked = torch.stack([by_edge[edge].flatten(1) for edge in edges])
                values = spread(stacked.flatten(0, 1), size, self.patches[row]).unflatten(0, stacked.shape[:2])
                of_tokens |= zip(edges, values.unbind(), strict=True)
        return {edge: of_tokens[edge] for edge in by_edge}

    def _of_patches(self, edge: Edge, x: Tensor) -> Tensor:
        """What :meth:`_of_tokens` spread, (B, rows, cols) -> (B, rows of patches, cols of patches)."""
        patch = self.patches[_target_row(edge)]
        return x[:, ::patch, ::patch]

    def dense_decisions(self, images: Tensor) -> dict[Edge, Tensor]:
        """The staircase."""
        return self.draw_decisions(self.build_gate(dict(type='FixedRoutes', routes='staircase')), images)

    def random_decisions(
        self, ratio: float, images: Tensor, generator: torch.Generator | None = None
    ) -> dict[Edge, Tensor]:
        """Decisions on every edge that cost ``ratio`` times PVTv2 on average; chance is torch's, or the generator's."""
        share = self.active_ratio_of(ratio, image_size(images))
        gate = self.build_gate(dict(type='RandomRoutes', active_ratio=share))
        if generator is None:
            return self.draw_decisions(gate, images)
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            return self.draw_decisions(gate, images)

    def stand_ins(self, metrics: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        """The random routes cost as much for images of ``img_size``, but for the gate, which they have not."""
        share = self.active_ratio_of(metrics['cost_ratio'], self.img_size)
        return {
            'shuffled': dict(type='ShuffledRoutes', gate=self.gate),
            'random': dict(type='RandomRoutes', active_ratio=share),
            'all open': dict(type='FixedRoutes', routes='open'),
            'staircase': dict(type='FixedRoutes', routes='staircase'),
            'all closed': dict(type='FixedRoutes', routes='closed'),
        }

    def dense_twin(self, image_size: tuple[int, int]) -> PlainPVT:
        """The PVTv2 that the routing space contains, on the same weights."""
        return PlainPVT(self)

    def count_tokens(self, costs: Costs) -> Tensor:
        """Tokens of each image as predictions state them, shape (B,): the sum over the nodes, or over PVTv2's rows."""
        return costs.num_tokens.sum(0)

    def metainfo(self) -> dict[str, Any]:
        """Blocks of every node, ``'i_j'`` for stage j of row i."""
        return dict(node_depths={name: len(blocks) for name, blocks in self.nodes.items()})

    def _row_sizes(self, images: Tensor) -> list[Size]:
        check_images(images, 3)
        self._grids(image_size(images))
        sizes = row_sizes(image_size(images))
        if any(min(size) < sr_ratio for size, sr_ratio in zip(sizes, self.arch['sr_ratios'], strict=True)):
            raise ValueError(
                f'images must be large enough for one key on every row (sr_ratios {self.arch["sr_ratios"]}), '
                f'got {images.shape[2]}x{images.shape[3]} pixels'
            )
        return sizes

    def _check_decisions(self, decisions: Mapping[Edge, Tensor], batch: int, sizes: list[Size]) -> dict[Edge, Tensor]:
        for edge, given in decisions.items():
            if edge not in self.edges:
                raise ValueError(f'decisions must be on edges of this routing space, {[*self.edges]}, got {edge}')
            try:
                check_decisions(given, given.new_empty(batch, *sizes[_target_row(edge)]), '0 (closed) or 1 (open)')
                patch = self.patches[_target_row(edge)]
                spread_again = self._of_tokens({edge: self._of_patches(edge, given)}, sizes)[edge]
                if not torch.equal(spread_again, given):
                    raise ValueError(f'decisions must be the same within {patch}x{patch} tokens, got some that are not')
            except ValueError as error:
                raise ValueError(f'on edge {edge}: {error}') from None
        return {edge: self._of_patches(edge, given) for edge, given in decisions.items()}


class _Decider:
    """The decisions of one forward pass, in the order in which they fall."""

    def __init__(self, backbone: DynamicTokenRoutingTransformer, size: Size, stated: dict[Edge, Tensor]) -> None:
        self.backbone = backbone
        self.stated = stated
        self.sizes, self.grids = row_sizes(size), backbone._grids(size)
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}  # tokens of a row, and what its gates see of them
        self.judged: dict[Edge, tuple[Tensor, ...]] = {}  # logits, relaxed samples and decisions, not yet executed
        self.closed: set[Edge] = set()  # which no image needs, where closed tokens cost nothing
        self.gate_values: dict[Edge, Tensor] = {}
        self.decisions: dict[Edge, Tensor] = {}
        self.alive: dict[int, Tensor] = {}  # whether the row goes on, (B, 1)
        self.learnable = backbone.gate.learnable
        self.table = self.budget_table = backbone.cost_table(size)
        if backbone.row_weights != (1.0,) * NUM_ROWS:
            self.budget_table = backbone.budget_table(size)
        self.left: Any = None if backbone.training else self._budget(size)  # multiply-adds, of each image

    def decide(self, edge: Edge, tokens: Tensor) -> Tensor | None:
        """Decisions with the gate's gradient, (B, N, C) -> (B, patches), or None if the pass can leave the edge out."""
        kind, row, _ = edge
        if edge not in self.judged:
            early = self.backbone.gate.early
            self._judge([e for e in self.backbone.edges if e[:2] == edge[:2]] if early else [edge], tokens)
        logits, values, decisions = self.judged.pop(edge)
        if edge in self.stated:
            decisions = self.stated[edge].flatten(1).to(values)
            self.closed.discard(edge)
        if kind == 'row' and self.backbone.row_stop:
            decisions = decisions * self.alive.get(row, 1.0)
        if self.left is not None:
            decisions = decisions * self._affordable(edge, logits, decisions)
        if kind == 'row' and self.backbone.row_stop:
            self.alive[row] = decisions.detach().amax(1, keepdim=True)
        self.gate_values[edge], self.decisions[edge] = values, decisions
        return None if edge in self.closed else decisions

    def _judge(self, edges: Sequence[Edge], tokens: Tensor) -> None:
        """What the gate says on edges of one kind from one row."""
        gate, row = self.backbone.gate, edges[0][1]
        if row not in self.seen or (
            not gate.early and self.seen[row][0] is not tokens
        ):  # else nothing has changed since
            means = mean_of_cells(tokens, self.sizes[row], self.backbone.patches[row])
            self.seen[row] = tokens, means.to(torch.promote_types(means.dtype, torch.float32))
        seen, size = self.seen[row][1], self.grids[row]
        with torch.autocast(tokens.device.type, enabled=False):
            logits = gate.forward_all(edges, seen, size) if len(edges) > 1 else gate(edges[0], seen, size)[None]
        learning = self.backbone.training and self.learnable
        logits = logits if self.learnable else logits.detach()  # nor is it to move the features instead
        values = relaxed_gate_sample(logits, self.backbone.gate_temperature, noise=learning)
        decisions = (straight_through if values.requires_grad else threshold)(values)
        self.judged |= zip(edges, zip(logits, values, decisions, strict=True), strict=True)
        if self.backbone._execution == 'sparse':
            any_open = decisions.flatten(1).any(1).tolist()
            self.closed |= {edge for edge, is_open in zip(edges, any_open, strict=True) if not is_open}

    def _budget(self, size: Size) -> float | None:
        """Multiply-adds that edges may cost an image."""
        budget = self.backbone.cost_budget
        if budget is None:
            return None
        if not budget >= self.budget_table.floor:  # nor NaN
            raise ValueError(
                f'cost_budget: wanted at least {self.budget_table.floor:.3f}, what stem, entries and gates cost of '
                f'PVTv2 for images of {size[0]}x{size[1]} pixels, got {budget}'
            )
        return (budget - self.budget_table.floor) * self.budget_table.reference

    def _affordable(self, edge: Edge, logits: Tensor, decisions: Tensor) -> Tensor:
        """1 for the open cells that the gate wants most, as many as what is left pays for; all if they are given."""
        static, per_token = self.budget_table.edges[edge]
        per_cell = per_token * self.backbone.patches[_target_row(edge)] ** 2
        most = torch.as_tensor(self.left, dtype=torch.float64, device=logits.device).sub(static).div(per_cell)
        order = logits.masked_fill(decisions == 0, -torch.inf).argsort(dim=1, descending=True, stable=True)
        kept = (order.argsort(dim=1) < (most + 1e-9).floor().expand(len(logits)).unsqueeze(1)).to(decisions)
        kept = torch.ones_like(kept) if edge in self.stated else kept
        counts = (decisions * kept).detach().sum(1, dtype=torch.float64)
        self.left = self.left - static * (counts > 0) - per_cell * counts
        return kept

    def output(self) -> RouteOutput:
        costs = self.table.costs(self.decisions)
        budgeted = costs if self.budget_table is self.table else self.budget_table.costs(self.decisions)
        values = self.backbone._of_tokens(self.gate_values, self.sizes)
        executed = {edge: x.detach() for edge, x in self.decisions.items()}
        decisions = self.backbone._of_tokens(executed, self.sizes)
        return RouteOutput(values, decisions, costs.num_tokens.sum(0), costs, budgeted.cost_ratio)


def _target_row(edge: Edge) -> int:
    """The row whose tokens the decisions on an edge are about."""
    kind, row, _ = edge
    return row + (kind == 'merge')


def _call(function: Callable[..., Tensor], *args: Any) -> Tensor:
    return function(*args)
