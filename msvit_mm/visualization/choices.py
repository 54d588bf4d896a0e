"""What a gate chose over one image, from the prediction that carries it: a drawing for every kind of map."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure
from mmengine.structures import BaseDataElement

from .groups import draw_depths, draw_groups
from .routes import depth_map, draw_route_summary, draw_routes
from .scale_map import COARSE, FINE, draw_scale_map, tones


class Drawing(NamedTuple):
    """How choices of one kind are drawn.

    Attributes:
        panel: From an RGB image of the size that the backbone saw and a prediction: one picture, and its cost in words.
        figure: From the same: all there is to see.
        summary: From many predictions, or None.
        legend: From a prediction, colours by what they stand for.
    """

    panel: Callable[[np.ndarray, BaseDataElement], tuple[np.ndarray, str]]
    figure: Callable[[np.ndarray, BaseDataElement, str], Figure]
    summary: Callable[[Sequence[BaseDataElement]], Figure] | None = None
    legend: Callable[[BaseDataElement], Mapping[str, np.ndarray]] = lambda sample: {}


def maps_of_kind(sample: BaseDataElement, *kinds: str) -> dict[str, np.ndarray]:
    """The maps of a prediction that are of these kinds, by name."""
    names = [name for name, (kind, _) in sample.get('choice_maps', {}).items() if kind in kinds]
    return {name: sample.get(name).data.cpu().numpy() for name in names}


def route_maps(sample: BaseDataElement) -> dict[str, np.ndarray]:
    """The route maps of a prediction."""
    return maps_of_kind(sample, 'routes', 'merges')


def has_choices(sample: BaseDataElement) -> bool:
    """Whether a prediction carries choices that can be drawn."""
    return any(kind in DRAWINGS for kind, _ in sample.get('choice_maps', {}).values())


def draw_choices(image: np.ndarray, sample: BaseDataElement, name: str) -> Figure:
    """Draw the choices of a prediction over the image.

    Args:
        image: RGB of any size, uint8, shape (H, W, 3); drawn in the size that the backbone saw.
        sample: A prediction of a gated model.
        name: For the title.
    """
    return _drawing(sample).figure(_as_seen(image, sample), sample, name)


def draw_panel(image: np.ndarray, sample: BaseDataElement) -> tuple[np.ndarray, str]:
    """One picture of the choices of a prediction, and their cost in words.

    Args:
        image: As for :func:`draw_choices`.
    """
    return _drawing(sample).panel(_as_seen(image, sample), sample)


def legend_of(sample: BaseDataElement) -> Mapping[str, np.ndarray]:
    """The colours in the panel of a prediction, RGB, by what they stand for."""
    return _drawing(sample).legend(sample)


def draw_summary(samples: Sequence[BaseDataElement]) -> Figure | None:
    """The choices of many predictions in one figure, or None where their kind has none."""
    summary = _drawing(samples[0]).summary
    return None if summary is None else summary(samples)


def _drawing(sample: BaseDataElement) -> Drawing:
    kinds = [kind for kind, _ in sample.get('choice_maps', {}).values() if kind in DRAWINGS]
    if not kinds:
        raise ValueError(f'wanted a prediction with choices of {sorted(DRAWINGS)}, got fields {sorted(sample.keys())}')
    return DRAWINGS[kinds[0]]


def _as_seen(image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
    height, width = sample.img_shape[:2]
    padded = sample.get('batch_input_shape', (height, width))  # which detectors pad to
    resized = cv2.resize(image, (width, height))
    return cv2.copyMakeBorder(resized, 0, padded[0] - height, 0, padded[1] - width, cv2.BORDER_CONSTANT)


def _scale_panel(image: np.ndarray, sample: BaseDataElement) -> tuple[np.ndarray, str]:
    maps = maps_of_kind(sample, 'scale')
    sides = [cell for kind, cell in sample.choice_maps.values() if kind == 'scale']
    drawn = draw_scale_map(image, [x[0] for x in maps.values()], sides, sample.patch_size)
    return drawn, f'coarse ratio {np.mean([x.mean() for x in maps.values()]):.2f}'


def _scale_legend(sample: BaseDataElement) -> dict[str, np.ndarray]:
    sides = [cell for kind, cell in sample.choice_maps.values() if kind == 'scale']
    if len(sides) == 1:
        return {'coarse token': COARSE, 'fine token': FINE}
    sides.append(sample.patch_size)
    return {f'token of {side}': colour for side, colour in zip(sides, tones(len(sides)), strict=True)}


def _scale_figure(image: np.ndarray, sample: BaseDataElement, name: str) -> Figure:
    drawn, words = _scale_panel(image, sample)
    panels = [(drawn, f'{name}: {words}, {sample.num_tokens} tokens'), *_step_panels(image, sample)]
    size = 8 * len(panels), 8 * drawn.shape[0] / drawn.shape[1] + 0.5
    fig = Figure(figsize=size, layout='constrained')
    for ax, (panel, title) in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        ax.imshow(panel)
        ax.set_axis_off()
        ax.set_title(title)
    return fig


def _step_panels(image: np.ndarray, sample: BaseDataElement) -> Iterator[tuple[np.ndarray, str]]:
    """Pictures and titles of what steps between the layers did."""
    for name, (kind, cell) in sample.choice_maps.items():
        if kind == 'groups':
            groups = sample.get(name).data[0].cpu().numpy()
            yield draw_groups(image, groups, cell), f'merged: {len(np.unique(groups))} tokens after the last layer'
        if kind == 'layers':
            layers = sample.get(name).data[0].cpu().numpy()
            left = (layers < layers.max()).mean()
            yield draw_depths(image, layers, cell), f'dark: the {left:.0%} whose tokens left early'


def _route_panel(image: np.ndarray, sample: BaseDataElement) -> tuple[np.ndarray, str]:
    depths = depth_map(route_maps(sample), sample.node_depths, image.shape[:2])
    return depths, f'{sample.cost_ratio:.2f} of PVTv2, depth {depths.mean():.1f}'


def _route_figure(image: np.ndarray, sample: BaseDataElement, name: str) -> Figure:
    title = f'{name}: {sample.cost_ratio:.2f} of the cost of PVTv2'
    return draw_routes(image, route_maps(sample), sample.node_depths, title)


def _route_summary(samples: Sequence[BaseDataElement]) -> Figure:
    return draw_route_summary([route_maps(x) for x in samples], [x.cost_ratio for x in samples])


DRAWINGS = {
    'scale': Drawing(_scale_panel, _scale_figure, legend=_scale_legend),
    'routes': Drawing(_route_panel, _route_figure, _route_summary),
}
