"""Accuracy against cost: the points of models and of their sweeps over budgets, evaluated, kept, timed and compared."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ..backbones import GatedBackbone
from ..checkpoints import write_files
from ..engine.calibration import find_threshold, record_gate
from ..evaluation import ImageAreasMetric, mean_iou, small_indices
from ..gates import ShiftedGate
from ..models import GatedModel
from ..visualization import pareto_front
from .bootstrap import bootstrap_difference, check_same_images
from .timing import clock_of, interleave, quartiles

GATES = dict(random='RandomGate', edges='EdgeGate')
SWEEPS = ('budgets', 'coarse_ratios', *GATES)
NAMES = {
    'own': '{model}',
    'budgets': '{model}, {value:g} tokens',
    'coarse_ratios': '{model}, coarse ratio {value:g}',
    'random': '{model}, random {value:g}',
    'edges': '{model}, edges {value:g}',
}
COSTS = dict(gmacs='GMACs per image (1 MAC = 1 FLOP)', time_ms='ms per image')
SCORES = dict(mIoU='mIoU', boundary_fscore='boundary F-score', small_mIoU='mIoU of small classes')
MEASURES = ('num_tokens', 'coarse_ratio', 'cost_ratio', 'backbone_gmacs', *COSTS, *SCORES)
SEED = 0


def make_points(model: Mapping, cfg: Config, tolerance: float) -> list[dict]:
    """The points of a model, not evaluated yet; the key of each changes with all that its result depends on.

    Args:
        model: Its ``name``, ``checkpoint`` (a path) and, by the names of ``SWEEPS``, the values of its sweeps.
        cfg: Its config.
        tolerance: Of the boundary F-score, in pixels.
    """
    content = Path(model['checkpoint']).read_bytes() if Path(model['checkpoint']).is_file() else b''
    described = cfg.to_dict() | dict(work_dir=None)
    wanted = [('own', None)] + [(kind, value) for kind in SWEEPS for value in model[kind]]
    points = []
    for kind, value in wanted:
        point = dict(model=model['name'], kind=kind, value=value)
        point['name'] = NAMES[kind].format(**point)
        point['series'] = model['name'] if kind == 'own' else f'{model["name"]}, {kind.replace("_", " ")}'
        text = json.dumps([described, kind, value, tolerance], default=str)
        point['key'] = hashlib.sha256(content + text.encode()).hexdigest()
        points.append(point)
    return points


def setting_of(point: Mapping, backbone: GatedBackbone) -> dict:
    """What :meth:`~msvit_mm.backbones.GatedBackbone.configured` is to set for a point."""
    if point['kind'] in GATES:
        return dict(gate=dict(type=GATES[point['kind']], coarse_ratio=point['value']))
    if point['kind'] == 'budgets':
        return dict(token_budget=point['value'])
    if point['kind'] == 'coarse_ratios':
        return dict(gate=ShiftedGate(backbone.gate, point['threshold']))
    return {}


def set_metrics(cfg: Config, tolerance: float) -> None:
    """Let a config test with the metrics of a sweep, and the ``ignore_index`` of its own."""
    given = cfg.get('test_evaluator') or []
    given = given if isinstance(given, list) else [given]
    ignore_index = given[0].get('ignore_index', 255) if given else 255
    cfg.test_evaluator = [
        dict(type='ImageAreasMetric', ignore_index=ignore_index),
        dict(type='BoundaryFScoreMetric', tolerance=tolerance, ignore_index=ignore_index),
        dict(type='ComplexityMetric', prefix='cost'),
    ]


def calibrate_points(points: Iterable[dict], model: GatedModel, batches: Iterable[dict]) -> None:
    """Give the points that sweep over coarse ratios the thresholds that meet these on some images.

    Raises:
        ValueError: If the model's gate has no logits to shift.
    """
    points = [point for point in points if point['kind'] == 'coarse_ratios']
    if not points:
        return
    model.backbone.gate.shift_logits(0.0)  # a gate without logits says so before the images take their time
    recorded = [record_gate(model, batch) for batch in batches]
    for point in points:
        point['threshold'] = find_threshold(model.backbone, recorded, 'coarse_ratio', point['value'])['threshold']


def evaluate_point(runner: Runner, point: Mapping) -> dict:
    """The results of a point, all in percent, tokens or 1e9 multiply-adds, and its areas by image.

    Args:
        runner: Of one process, with the metrics of :func:`set_metrics`.
    """
    torch.manual_seed(SEED)  # a random gate does not depend on what else is evaluated
    backbone = runner.model.backbone
    with backbone.configured(**setting_of(point, backbone)):
        metrics = runner.test()
    evaluator = runner.test_evaluator
    areas: Any = next(metric.areas for metric in evaluator.metrics if isinstance(metric, ImageAreasMetric))
    total = areas.sum(0)
    result = dict(mIoU=float(mean_iou(total)), boundary_fscore=metrics['boundary/fscore'])
    if small := small_indices(evaluator.dataset_meta):
        result['small_mIoU'] = float(mean_iou(total[:, small]))
    result |= {name.removeprefix('cost/'): value for name, value in metrics.items() if name.startswith('cost/')}
    return result | dict(areas=areas.astype(int).tolist())


@torch.no_grad()
def time_points(
    points: Iterable[dict],
    models: Mapping[str, tuple[GatedModel, Sequence[dict]]],
    device: str,
    rounds: int,
    progress: Callable[[range], Iterable[int]] = iter,
) -> None:
    """Time prediction, all points in turns, one image after the other; each gets quartiles of ``time_ms`` per image.

    Args:
        models: By name, a model and its preprocessed batches of one image each.
        device: Whose clock to read.
        rounds: How often each predicts all images.
        progress: Wraps the range of rounds.
    """

    def predict(point: dict) -> None:
        model, batches = models[point['model']]
        with model.backbone.configured(**setting_of(point, model.backbone)):
            for batch in batches:
                model.predict(batch['inputs'], batch['data_samples'])

    calls = {point['name']: partial(predict, point) for point in points}
    times = interleave(calls, clock_of(device, 1)[0], rounds, progress=progress)
    for point in points:
        point |= quartiles(times[point['name']] / len(models[point['model']][1]), 'time_ms')


def check_points(points: Sequence[dict], pairs: Iterable[tuple[str, str]]) -> None:
    """Check that pairs name points.

    Raises:
        ValueError: If one does not.
    """
    names = [point['name'] for point in points]
    if unknown := [name for pair in pairs for name in pair if name not in names]:
        raise ValueError(f'--bootstrap: wanted two of {names}, got {unknown[0]!r}.')


def compare_points(points: Sequence[dict], pairs: Iterable[tuple[str, str]]) -> list[dict]:
    """Bootstrap of pairs of points, by name.

    Raises:
        ValueError: If any two points, in a pair or not, are of different images.
    """
    for one, other in pairwise(points):
        check_same_images(np.array(one['areas']), np.array(other['areas']))
    by_name = {point['name']: point for point in points}
    compared = []
    for a, b in pairs:
        first, second = np.array(by_name[a]['areas'], float), np.array(by_name[b]['areas'], float)
        row = dict(a=a, b=b, gmacs=[by_name[name]['gmacs'] for name in (a, b)], num_images=len(first))
        compared.append(row | bootstrap_difference(first, second))
    return compared


def tabulate(points: Sequence[dict]) -> list[dict]:
    """Rows of a table: what every point has, and whether it is on the front of mIoU against GMACs."""
    front = pareto_front([point['gmacs'] for point in points], [point['mIoU'] for point in points])
    columns = [name for name in MEASURES if all(name in point for point in points)]
    return [
        dict(name=point['name'], **{name: point[name] for name in columns}, pareto=bool(best))
        for point, best in zip(points, front, strict=True)
    ]


class PointFile:
    """Points in a JSON file, read from earlier calls and written again whenever one is done.

    Args:
        path: The file.
        points: Those wanted now; an older one of the same name and another key goes.
        run: What the record says beside the points.

    Raises:
        ValueError: If the file is something else.
    """

    def __init__(self, path: Path, points: Sequence[dict], run: Mapping) -> None:
        self.path, self.points = path, points
        self.record: dict[str, Any] = dict(points=[])
        self.cached: dict[str, dict] = {}
        try:
            if path.exists():
                self.record = json.loads(path.read_text())
                self.cached = {point['key']: point for point in self.record['points'] if point['name']}
        except (ValueError, KeyError, TypeError, OSError):
            message = 'wanted the points of an earlier call, got something else; remove it.'
            raise ValueError(f"'{path}': {message}") from None
        self.record |= run

    def missing(self, model: str) -> list[dict]:
        """Points of a model that are not evaluated yet."""
        return [point for point in self.points if point['model'] == model and point['key'] not in self.cached]

    def complete(self) -> list[dict]:
        """The wanted points with their results."""
        return [self.cached[point['key']] | point for point in self.points]

    def is_timed(self, exactly: bool = False) -> bool:
        """Whether the wanted points were timed in one call, since other times do not compare; exactly: they alone."""
        keys, timed = {point['key'] for point in self.points}, set(self.record.get('timed', ()))
        return keys == timed if exactly else keys <= timed

    def save(self, *done: dict) -> None:
        """Write points that are done, and the older ones."""
        self.cached.update((point['key'], point) for point in done)
        names, keys = ({point[word] for point in self.points} for word in ('name', 'key'))
        kept = [point for point in self.cached.values() if point['name'] not in names or point['key'] in keys]
        write_files({self.path: json.dumps(self.record | dict(points=kept)).encode()})
