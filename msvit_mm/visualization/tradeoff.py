"""Accuracy against cost: every result a point, the Pareto front marked."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike


def pareto_front(costs: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Which points no other beats: none is as cheap and better, or cheaper and as good.

    Args:
        costs: The lower the better, shape (n,).
        scores: The higher the better, shape (n,).

    Returns:
        Boolean, shape (n,). Equal points are on the front together.

    Example:
        >>> pareto_front([1, 2, 3, 3], [50, 60, 55, 60])
        array([ True,  True, False, False])
    """
    cost, score = np.asarray(costs, float), np.asarray(scores, float)
    no_worse = (cost <= cost[:, None]) & (score >= score[:, None])  # [i, j]: j is no worse than i
    better = (cost < cost[:, None]) | (score > score[:, None])
    return np.asarray(~(no_worse & better).any(1))


def draw_tradeoff(points: Sequence[Mapping], costs: Mapping[str, str], scores: Mapping[str, str]) -> Figure:
    """Draw each score against each cost, a row of plots per score.

    Args:
        points: Each with a ``series``, whose points are joined, and its costs and scores by name.
        costs: Titles of the horizontal axes by name.
        scores: Titles of the vertical axes by name.
    """
    fig = Figure(figsize=(7 * len(costs), 4.5 * len(scores)), layout='constrained')
    axes = fig.subplots(len(scores), len(costs), squeeze=False)
    series = list(dict.fromkeys(point['series'] for point in points))
    for row, (score, score_title) in enumerate(scores.items()):
        for column, (cost, cost_title) in enumerate(costs.items()):
            ax = axes[row, column]
            for i, name in enumerate(series):
                own = sorted((point[cost], point[score]) for point in points if point['series'] == name)
                ax.plot(*zip(*own, strict=True), marker='osD^v<>P*X'[i // 10 % 10], color=f'C{i % 10}', label=name)
            x, y = (np.array([point[key] for point in points], float) for key in (cost, score))
            front = pareto_front(x, y)
            order = x[front].argsort()
            ax.plot(x[front][order], y[front][order], 'o--', color='0.4', mfc='none', ms=13, lw=1, label='Pareto front')
            ax.set(xlabel=cost_title, ylabel=score_title)
            ax.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    return fig
