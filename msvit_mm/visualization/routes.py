"""The routes of tokens: where each row and stage was active, how deep every pixel went, the grid, and what it cost.

Maps are named as on the predictions: ``routes_s8`` (S, h, w) holds for the row of stride 8 its S stages and
``merges_s8`` (S + 1, h, w) the columns in which it took in the finer row; 1 = open, 0 = closed, NaN = there is no edge.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STRIDES = (4, 8, 16, 32)
TRANSFORM, SCALE, IDENTITY = 'tab:green', 'tab:orange', 'lightgrey'
LINE = 225


def depth_map(maps: Mapping[str, np.ndarray], node_depths: Mapping[str, int], size: tuple[int, int]) -> np.ndarray:
    """Blocks that each pixel passed through, over all rows.

    Args:
        maps: Of one image.
        node_depths: Blocks of every node, ``'i_j'`` for stage j of row i.
        size: (height, width) of the image in pixels.

    Returns:
        Shape (height, width).

    Example:
        >>> stages = np.array([[[1.0, 0.0]], [[1.0, np.nan]]])
        >>> depth_map({'routes_s4': stages}, {'0_0': 2, '0_1': 1}, (1, 6))
        array([[3., 3., 3., 3., 0., 0.]])
    """
    depths = np.zeros(size)
    for i, stride in enumerate(STRIDES):
        stages = maps.get(f'routes_s{stride}', np.zeros((0, 1, 1)))
        blocks = np.array([node_depths.get(f'{i}_{j}', 0) for j in range(len(stages))])
        passed = (blocks[:, None, None] * np.nan_to_num(stages)).sum(0)
        depths += passed.repeat(stride, 0).repeat(stride, 1)[: size[0], : size[1]] if len(stages) else 0
    return depths


def draw_routes(
    image: np.ndarray, maps: Mapping[str, np.ndarray], node_depths: Mapping[str, int], title: str = ''
) -> Figure:
    """Panels of the active tokens over an image, rows by stages, and the depth of its pixels.

    A closed token is white; a panel without a node is hatched, one at which a row has ended is grey. In the corner
    stands the share of open tokens.

    Args:
        image: RGB of the size that the backbone saw, uint8, shape (H, W, 3).
        maps: Of this image.
        node_depths: Blocks of every node, ``'i_j'`` for stage j of row i.
        title: Of the figure.

    Raises:
        ValueError: If the maps do not belong to an image of this size.
    """
    height, width = image.shape[:2]
    num_stages = max(len(x) for name, x in maps.items() if name.startswith('routes_'))
    side = 1.6 * np.sqrt(width / height)
    figsize = (side * (num_stages + 2) + 1, side * height / width * len(STRIDES) + 1)
    fig = Figure(figsize=figsize)
    grid = fig.add_gridspec(len(STRIDES), num_stages + 2, left=0.04, right=0.98, bottom=0.02, top=0.9, wspace=0.06)
    axes = [[fig.add_subplot(grid[i, j]) for j in range(num_stages)] for i in range(len(STRIDES))]
    for stride, row in zip(STRIDES, axes, strict=True):
        size = (-(-height // stride), -(-width // stride))
        stages = maps.get(f'routes_s{stride}', np.full((num_stages, *size), np.nan))
        if stages.shape[1:] != size:
            raise ValueError(
                f'an image of {height}x{width} pixels has routes of shape {size} at stride {stride}, '
                f'got {stages.shape[1:]}'
            )
        small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        for j, (ax, stage) in enumerate(zip(row, stages, strict=True)):
            ended = not np.nan_to_num(stages[j:]).any()
            _draw_panel(ax, small, stage, ended)
        row[0].set_ylabel(f'stride {stride}', fontsize=8)
    for j, ax in enumerate(axes[0]):
        ax.set_title(f'stage {j}', fontsize=8)
    ax = fig.add_subplot(grid[:2, num_stages:])
    drawn = ax.imshow(depth_map(maps, node_depths, (height, width)), cmap='viridis', vmin=0)
    fig.colorbar(drawn, ax=ax, location='bottom', label='blocks per pixel', pad=0.04)
    ax.set_axis_off()
    fig.suptitle(title)
    return fig


def draw_route_summary(maps: Sequence[Mapping[str, np.ndarray]], cost_ratios: Sequence[float]) -> Figure:
    """The grid with the mean activity of its edges over a set of images, and the histogram of their costs.

    Args:
        maps: Of every image.
        cost_ratios: Cost of every image relative to PVTv2.
    """
    fig = Figure(figsize=(12, 4), layout='constrained')
    grid, histogram = fig.subplots(1, 2, width_ratios=(2, 1))
    shares = {name: np.mean([x[name].mean((1, 2)) for x in maps], axis=0) for name in maps[0]}
    _draw_grid(grid, shares)
    histogram.hist(cost_ratios, bins=min(30, len(cost_ratios)), color=TRANSFORM)
    histogram.set_xlabel('multiply-adds relative to PVTv2')
    histogram.set_ylabel('images')
    histogram.set_title(f'mean {np.mean(cost_ratios):.3f}, deviation {np.std(cost_ratios):.3f}')
    return fig


def _draw_panel(ax: Axes, small: np.ndarray, stage: np.ndarray, ended: bool) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    if np.isnan(stage).any():
        ax.set_facecolor('white')
        ax.patch.set_hatch('///')
        ax.patch.set_edgecolor('lightgrey')
        ax.set_aspect(small.shape[0] / small.shape[1])
        return
    closed = np.array([200, 200, 200] if ended else [255, 255, 255])
    side = max(1, 320 // max(stage.shape))
    canvas = np.where(stage[..., None] >= 0.5, small, closed).astype(np.uint8).repeat(side, 0).repeat(side, 1)
    if side > 4:  # among smaller tokens lines would hide them
        canvas[side::side] = canvas[:, side::side] = LINE
    ax.imshow(canvas)
    box = dict(facecolor='white', edgecolor='none', alpha=0.7, pad=1)
    ax.text(0.03, 0.97, f'{stage.mean():.0%}', transform=ax.transAxes, va='top', fontsize=7, bbox=box)


def _draw_grid(ax: Axes, shares: Mapping[str, np.ndarray]) -> None:
    """Features as dots, rows downwards and columns to the right; the wider an edge, the more tokens took it."""
    rows = {i: shares[f'routes_s{s}'] for i, s in enumerate(STRIDES) if f'routes_s{s}' in shares}
    merges = {i: shares[f'merges_s{s}'] for i, s in enumerate(STRIDES) if f'merges_s{s}' in shares}
    for i, stages in rows.items():
        if i > 0:  # the entry, which all tokens take
            entry = np.flatnonzero(~np.isnan(stages))[0]
            ax.plot([entry] * 2, [i - 1, i], color=SCALE, linestyle=':', zorder=1)
        for j in np.flatnonzero(~np.isnan(stages)):
            ax.plot([j, j + 1], [i, i], color=IDENTITY, linewidth=1, zorder=1)
            ax.plot([j, j + 1], [i, i], color=TRANSFORM, linewidth=8 * stages[j], solid_capstyle='butt', zorder=2)
            ax.text(j + 0.5, i - 0.12, f'{stages[j]:.0%}', ha='center', fontsize=7)
            ax.scatter([j, j + 1], [i, i], color='black', s=12, zorder=3)
    for i, columns in merges.items():
        for j in np.flatnonzero(~np.isnan(columns)):
            ax.plot([j, j], [i - 1, i], color=SCALE, linewidth=8 * columns[j], solid_capstyle='butt', zorder=2)
            ax.text(j + 0.05, i - 0.5, f'{columns[j]:.0%}', fontsize=7)
    ax.set_yticks(range(len(STRIDES)), [f'stride {stride}' for stride in STRIDES])
    ax.set_xlabel('column')
    ax.set_ylim(len(STRIDES) - 0.5, -0.5)
    ax.set_title('mean share of open tokens: green transforms, orange merges, dotted enters')
