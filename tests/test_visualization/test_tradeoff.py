import itertools

import cv2
import numpy as np
import pytest

from msvit_mm.visualization import draw_tradeoff, pareto_front


@pytest.mark.parametrize('seed', range(3))
def test_front_is_what_no_other_point_beats(seed):
    costs, scores = np.random.default_rng(seed).integers(6, size=(2, 12))  # with ties
    front = pareto_front(costs, scores)
    for i in range(12):
        beaten = any(
            costs[j] <= costs[i] and scores[j] >= scores[i] and (costs[j], scores[j]) != (costs[i], scores[i])
            for j in range(12)
        )
        assert front[i] == (not beaten)
    assert front.any()


def test_every_score_is_drawn_against_every_cost(tmp_path):
    points = [
        dict(series=series, gmacs=x + i, time_ms=2 * x, mIoU=50 + x, small=40 - x)
        for (i, series), x in itertools.product(enumerate('ab'), range(3))
    ]
    heights, widths = [], []
    for scores, costs in (
        (dict(mIoU='mIoU'), dict(gmacs='GMACs')),
        (dict(mIoU='mIoU', small='small'), dict(gmacs='GMACs', time_ms='ms')),
    ):
        draw_tradeoff(points, costs, scores).savefig(tmp_path / 'plot.png')
        image = cv2.imread(str(tmp_path / 'plot.png'))
        assert image.std() > 5
        heights.append(image.shape[0])
        widths.append(image.shape[1])
    assert heights[1] == 2 * heights[0]
    assert widths[1] == 2 * widths[0]
