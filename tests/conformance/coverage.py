"""Laws 1 and 8: the active tokens cover the image once, closed ones rest, and a budget is met."""

import math
from collections.abc import Mapping

import torch
from conformance.cases import (
    ODD_SIZE,
    SIZES,
    Case,
    close,
    is_equal,
    maps_of,
    need,
    of_image,
    random_images,
    run,
    varied_decisions,
)

from msvit_mm.ops.mixed_grid import MixedGrid
from msvit_mm.ops.packing import Packing
from msvit_mm.ops.tiling import Tiling, active_slots, cell_tokens, token_areas


def law_areas_of_active_tokens_sum_to_the_image(case: Case) -> None:
    """The active tokens of an image cover each of its pixels once; none lies in the padding."""
    backbone = case.build()
    need(backbone.region_size, 'regions')
    for size in SIZES:
        images = random_images(size, 6)
        decisions, tiling = varied_decisions(backbone, images), backbone.tile(size)
        slots, areas = active_slots(decisions, tiling), token_areas(tiling)
        assert (slots * areas).flatten(1).sum(1).tolist() == [size[0] * size[1]] * 6
        assert (areas.expand_as(slots)[slots] > 0).all()
        _, choices = run(backbone, images, decisions)
        assert choices.num_tokens.tolist() == slots.flatten(1).sum(1).tolist()


def law_scatter_undoes_gather(case: Case) -> None:
    """What is packed returns to where it was, and every cell gets what the one token has that covers it."""
    backbone = case.build()
    need(backbone.region_size, 'regions')
    decisions, tiling = varied_decisions(backbone, random_images(ODD_SIZE, 6)), backbone.tile(ODD_SIZE)
    packing = Packing.select(active_slots(decisions, tiling).flatten(1))
    table = torch.randn(*packing.shape, 4, dtype=torch.float64)
    close(packing.unpack(packing.pack(table)), table * active_slots(decisions, tiling).flatten(1).unsqueeze(-1))
    (cells,) = MixedGrid(tiling, decisions, packing).scatter([(packing.pack(table), None)])
    covering = cell_tokens(decisions, tiling).flatten(1)  # (B, h, w) -> (B, h * w)
    close(cells.flatten(2).mT, table.take_along_dim(covering.unsqueeze(-1), dim=1))
    assert (torch.zeros(packing.shape).scatter(1, covering, 1.0).sum(1).tolist()) == packing.lengths


def law_cells_of_one_token_share_a_feature(case: Case) -> None:
    """Features lie on the grid of cells; two cells have the same one, bit for bit, if one token covers both."""
    backbone = case.build()
    need(backbone.region_size and backbone.out_type == 'featmap', 'maps over regions')
    need(not backbone.has_cell_detail, 'cells that have nothing but their token')
    images = random_images(ODD_SIZE, 6)
    decisions, tiling = varied_decisions(backbone, images), backbone.tile(ODD_SIZE)
    token = cell_tokens(decisions, tiling).flatten(1)
    same_token = token.unsqueeze(1) == token.unsqueeze(2)  # (B, cells, cells)
    for x in run(backbone, images, decisions)[0]:
        assert x.shape[2:] == (tiling.cell_rows, tiling.cell_cols)
        x = x.flatten(2)
        same_feature = (x.unsqueeze(2) == x.unsqueeze(3)).all(1)
        assert (same_feature >= same_token).all()
        assert bool(backbone.between) != torch.equal(same_feature, same_token)  # but for what merges or meets


def law_zeros_beyond_the_image_change_nothing(case: Case) -> None:
    """An image that is padded to whole cells by hand has the features and the cost of the image itself."""
    backbone = case.build()
    need(backbone.out_type == 'featmap', 'maps')
    images = random_images(ODD_SIZE)
    features, choices = run(backbone, images, varied_decisions(backbone, images))
    grids = [x.shape[2:] for x in features] + [x.data.shape[-2:] for x in choices.maps().values()]
    finest = max(grids, key=math.prod)
    cell = next(c for c in range(1, 99) if tuple(-(-side // c) for side in ODD_SIZE) == finest)
    bottom, right = (-side % cell for side in ODD_SIZE)
    padded = torch.nn.functional.pad(images, (0, right, 0, bottom))
    again, same = run(backbone, padded, choices.decisions)
    assert bottom and right
    close(again, features)
    close(same.costs.total, choices.costs.total)


def law_closed_tokens_stay_as_they_are(case: Case) -> None:
    """With everything after an edge closed its decisions move none but the tokens that they open, bit for bit."""
    backbone, images = case.build(), random_images(ODD_SIZE)
    decisions = varied_decisions(backbone, images)
    need(isinstance(decisions, Mapping), 'edges')
    executed = run(backbone, images, decisions)[1].decisions  # in the order in which they fall
    for execution in backbone.test_executions:
        num_moved, given = 0, {edge: torch.zeros_like(x) for edge, x in executed.items()}
        after, _ = run(backbone, images, given, execution)
        for edge in executed:
            given, before = given | {edge: executed[edge]}, after
            after, choices = run(backbone, images, given, execution)
            own = choices.decisions[edge].bool()
            for x, y in zip(before, after, strict=True):
                if x.shape[2:] == own.shape[1:]:
                    moved = (x != y).any(1)
                    assert not (moved & ~own).any(), (execution, edge)
                    num_moved += int(moved.sum())
        assert num_moved > 0


def law_a_budget_is_kept_and_used(case: Case) -> None:
    """No image has more tokens than the budget; with its next region fine it would. Given decisions overrule it."""
    backbone = case.build()
    need(hasattr(backbone, 'token_budget'), 'token budget')
    for size in SIZES:
        images, tiling = random_images(size), backbone.tile(size)
        for share in (0.0, 0.4, 0.77, 1.0):
            budget = tiling.num_regions + share * (tiling.num_cells - tiling.num_regions)
            with backbone.configured(token_budget=budget):
                _, choices = run(backbone, images)
                given = varied_decisions(backbone, images)
                assert is_equal(run(backbone, images, given)[1].decisions, given)
            assert (choices.num_tokens <= budget + 1e-6).all()
            logits = [x.data for x in choices.maps().values() if x.kind == 'logits']
            for i in range(len(images)):
                own = maps_of(of_image(choices.decisions, i))
                if choice := _next_split(backbone.tile(size), own, [x[i] for x in logits]):
                    scale, row, col = choice
                    more = [x.clone() for x in own]
                    more[scale][0, row, col] = 0
                    costs = backbone.costs_of(more[0] if len(more) == 1 else tuple(more), size)
                    assert costs.num_tokens[0].item() > budget


def _next_split(tiling: Tiling, decisions: list, logits: list) -> tuple[int, int, int] | None:
    """Scale, row and column of the node that is split next: of those that are reached the one of the lowest logit.

    No split node has a higher one, unless a node around it has.
    """
    best, highest = None, -torch.inf
    for i, scale in enumerate(tiling.scales[:-1]):
        for row in range(scale.rows):
            for col in range(scale.cols):
                sides = [x.side for x in tiling.scales[:i]]
                parents = [(j, row * scale.side // x, col * scale.side // x) for j, x in enumerate(sides)]
                bound = max(logits[j][r, c].item() for j, r, c in [*parents, (i, row, col)])
                if any(decisions[j][0, r, c] for j, r, c in parents):
                    assert decisions[i][0, row, col] == 1  # none is split within one that stays whole
                elif decisions[i][0, row, col] == 0:
                    highest = max(highest, bound)
                elif best is None or bound < best[0]:
                    best = bound, (i, row, col)
    assert best is None or best[0] >= highest
    return best and best[1]


def law_an_impossible_budget_is_refused(case: Case) -> None:
    """A budget that no decisions keep, and any where there is none, is an error that says which are possible."""
    backbone, images = case.build(), random_images()
    try:
        with backbone.configured(token_budget=0.5):
            run(backbone, images)
    except ValueError as error:
        words = 'token_budget: wanted at least' if hasattr(backbone, 'token_budget') else 'token_budget: '
        assert words in str(error) and 'got 0.5' in str(error)
    else:
        raise AssertionError('no error')


def law_a_budget_above_all_tokens_is_all_of_them(case: Case) -> None:
    """No image has more tokens than its finest decisions give, so a larger budget changes nothing."""
    backbone, images = case.build(), random_images()
    need(hasattr(backbone, 'token_budget'), 'budgets')
    with backbone.configured(token_budget=1e6):
        _, choices = run(backbone, images)
    assert not any(x.any() for x in maps_of(choices.decisions))
