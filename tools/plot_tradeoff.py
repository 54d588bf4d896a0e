"""Plot mIoU against GMACs, and time, for any set of configs and checkpoints, and any of them swept over budgets.

python tools/plot_tradeoff.py OUT_DIR --model learned CONFIG CHECKPOINT --budgets 40 60 80 --random 0.5 0.75
"""

import csv
import hashlib
import io
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from numbers import Real
from pathlib import Path

import numpy as np
import torch
import yaml
from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track
from rich.table import Table

from msvit_mm.checkpoints import use_safe_loader, write_files
from msvit_mm.engine.calibration import find_threshold, record_gate
from msvit_mm.engine.inference import build_gated_model, check_regions, describe_run, load_split
from msvit_mm.engine.launch import add_common_arguments, build_test_runner, load_config, one_line_errors, unwrap
from msvit_mm.engine.timing import cuda_ms, interleave, process_ms, quartiles
from msvit_mm.evaluation import (
    ImageAreasMetric,
    bootstrap_difference,
    check_same_images,
    mean_iou,
    small_indices,
)
from msvit_mm.models import gate_replaced
from msvit_mm.visualization import draw_tradeoff, pareto_front

COSTS = dict(gmacs='GMACs per image (1 MAC = 1 FLOP)', time_ms='ms per image')
SCORES = dict(mIoU='mIoU', boundary_fscore='boundary F-score', small_mIoU='mIoU of small classes')
COLUMNS = ('num_tokens', 'coarse_ratio', 'route_ratio', 'backbone_gmacs', *COSTS, *SCORES)
GATES = dict(random='RandomGate', edges='EdgeGate')
SWEEPS = ('budgets', 'coarse_ratios', *GATES)
NUM_CALIBRATION_IMAGES = 64
SEED = 0
NOTE = '1 MAC = 1 FLOP, as the papers count.'
WORDS = {
    'own': '{model}',
    'budgets': '{model}, {value:g} tokens',
    'coarse_ratios': '{model}, coarse ratio {value:g}',
    'random': '{model}, random {value:g}',
    'edges': '{model}, edges {value:g}',
}


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('out_dir', help='folder of points.json, tradeoff.csv and tradeoff.png')
    parser.add_argument(
        '--model', nargs=3, action='append', default=[], metavar=('NAME', 'CONFIG', 'CHECKPOINT'), dest='models'
    )
    parser.add_argument('--list', help='YAML or JSON: a list of name, config, checkpoint and, where wanted, sweeps')
    sweeps = parser.add_argument_group('sweeps of every --model; in the list, each model has its own')
    sweeps.add_argument('--budgets', type=float, nargs='+', default=[], help='token_budget, kept by every image')
    sweeps.add_argument(
        '--coarse-ratios', type=float, nargs='+', default=[], help='by a threshold calibrated on training images'
    )
    sweeps.add_argument('--random', type=float, nargs='+', default=[], help='coarse ratios of a RandomGate instead')
    sweeps.add_argument('--edges', type=float, nargs='+', default=[], help='coarse ratios of an EdgeGate instead')
    parser.add_argument('--tolerance', type=float, default=2, help='of the boundary F-score, in pixels')
    parser.add_argument(
        '--bootstrap', nargs=2, action='append', default=[], metavar=('A', 'B'), help='names of points: is A above B?'
    )
    parser.add_argument('--time', type=int, metavar='ROUNDS', help='time all points in turns, one image at a time')
    parser.add_argument('--time-images', type=int, default=4, help='distinct images to time')
    parser.add_argument('--threads', type=int, default=1, help='on the CPU, while timing')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='to calibrate and time on')
    add_common_arguments(parser)
    return parser.parse_args()


def read_models(args: Namespace) -> list[dict]:
    """Name, config, checkpoint and sweeps of each model, from the command line and from the list.

    Raises:
        ValueError: If there is none, one is not so described, or two have one name.
    """
    sweeps = {name: getattr(args, name) for name in SWEEPS}
    models = [dict(name=name, config=config, checkpoint=path, **sweeps) for name, config, path in args.models]
    if args.list:
        if not Path(args.list).is_file():
            raise ValueError(f"--list '{args.list}': wanted a file, got none.")
        try:
            listed = yaml.safe_load(Path(args.list).read_text())  # reads JSON too
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"--list '{args.list}': wanted YAML or JSON, got {str(error).splitlines()[0]}.") from None
        for model in listed if isinstance(listed, list) else [listed]:
            check_model(model)
            models.append({name: [] for name in SWEEPS} | model)
    if not models:
        raise ValueError('wanted at least one --model, or a --list of them, got none.')
    names = [model['name'] for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f'models: wanted each name once, got {names}.')
    return models


def check_model(model: dict) -> None:
    """Check an item of the list.

    Raises:
        ValueError: If it does not say what it has to, or anything else.
    """
    wanted = ('name', 'config', 'checkpoint')
    texts = isinstance(model, dict) and all(isinstance(model.get(key), str) for key in wanted)
    if not texts or set(model) - {*wanted, *SWEEPS}:
        raise ValueError(f'--list: wanted items of {", ".join(wanted)} and, if any, {", ".join(SWEEPS)}, got {model}.')
    for name in SWEEPS:
        values = model.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, Real) for value in values):
            raise ValueError(f"--list, '{model['name']}': wanted a list of numbers as {name}, got {values}.")


def make_points(model: dict, cfg: Config, args: Namespace) -> list[dict]:
    """The points of a model, not evaluated yet; the key of each changes with all that its result depends on."""
    content = Path(model['checkpoint']).read_bytes() if Path(model['checkpoint']).is_file() else b''
    settings = [('own', None)] + [(kind, value) for kind in SWEEPS for value in model[kind]]
    described = cfg.to_dict() | dict(work_dir=None)
    points = []
    for kind, value in settings:
        point = dict(model=model['name'], kind=kind, value=value)
        point['name'] = WORDS[kind].format(**point)
        point['series'] = model['name'] if kind == 'own' else f'{model["name"]}, {kind.replace("_", " ")}'
        text = json.dumps([described, kind, value, args.tolerance], default=str)
        point['key'] = hashlib.sha256(content + text.encode()).hexdigest()
        points.append(point)
    return points


@contextmanager
def setting(model: torch.nn.Module, point: dict) -> Iterator[None]:
    """The model as a point wants it, for the duration of a ``with`` block."""
    backbone, kind, value = model.backbone, point['kind'], point['value']
    with ExitStack() as stack:
        if kind in GATES:
            stack.enter_context(gate_replaced(model, dict(type=GATES[kind], coarse_ratio=value)))
        elif kind == 'budgets':
            stack.callback(setattr, backbone, 'token_budget', backbone.token_budget)
            backbone.token_budget = value
        elif kind == 'coarse_ratios':
            hook = backbone.gate.register_forward_hook(lambda gate, args, logits: logits - point['threshold'])
            stack.callback(hook.remove)
        yield


def build_segmentor_runner(cfg: Config, checkpoint: str, tolerance: float) -> Runner:
    """A runner that tests with the metrics of this tool.

    Raises:
        ValueError: If machine, data or checkpoint do not fit, or the model is no segmentor over a gated backbone.
    """
    given = cfg.get('test_evaluator') or []
    ignored = [metric.get('ignore_index', 255) for metric in (given if isinstance(given, list) else [given])]
    ignore_index = ignored[0] if ignored else 255
    cfg.test_evaluator = [
        dict(type='ImageAreasMetric', ignore_index=ignore_index),
        dict(type='BoundaryFScoreMetric', tolerance=tolerance, ignore_index=ignore_index),
        dict(type='ComplexityMetric', prefix='cost'),
    ]
    runner = build_test_runner(cfg, checkpoint)
    model = unwrap(runner.model)
    if not (hasattr(model, 'decode_head') and hasattr(model.backbone, 'forward_gated')):
        got = f'{type(model).__name__} over {type(model.backbone).__name__}'
        raise ValueError(f"config '{cfg.filename}': wanted a segmentor over a gated backbone, got {got}.")
    return runner


def evaluate(runner: Runner, point: dict) -> dict:
    """The results of a point, all in percent, tokens or 1e9 multiply-adds, and its areas by image."""
    torch.manual_seed(SEED)  # a random gate does not depend on what else is evaluated
    with setting(unwrap(runner.model), point):
        metrics = runner.test()
    evaluator = runner.test_evaluator
    areas = next(metric.areas for metric in evaluator.metrics if isinstance(metric, ImageAreasMetric))
    total = areas.sum(0)
    result = dict(mIoU=float(mean_iou(total)), boundary_fscore=metrics['boundary/fscore'])
    if small := small_indices(evaluator.dataset_meta):
        result['small_mIoU'] = float(mean_iou(total[:, small]))
    result |= {name.removeprefix('cost/'): value for name, value in metrics.items() if name.startswith('cost/')}
    return result | dict(areas=areas.astype(int).tolist())


def evaluate_model(model: dict, cfg: Config, points: list[dict], args: Namespace, save: Callable) -> None:
    """Evaluate points of one model, and save each when it is done."""
    runner = build_segmentor_runner(cfg, model['checkpoint'], args.tolerance)
    if any(point['kind'] in SWEEPS for point in points):
        check_regions(unwrap(runner.model), cfg)
    if any(point['kind'] == 'coarse_ratios' for point in points):
        gated = build_gated_model(cfg, model['checkpoint'], args.device)
        gated.backbone.gate.shift_logits(0.0)  # a gate without logits says so before the images take their time
        images = load_split(cfg, 'train', NUM_CALIBRATION_IMAGES)
        recorded = [record_gate(gated, batch) for batch in track(images, f'calibrating {model["name"]}')]
    for point in points:
        print(f'{point["name"]} ...', flush=True)
        if point['kind'] == 'coarse_ratios':
            point['threshold'] = find_threshold(gated.backbone, recorded, 'coarse_ratio', point['value'])['threshold']
        point |= evaluate(runner, point)
        save(point)


@torch.no_grad()
def time_points(models: list[dict], cfgs: list[Config], points: list[dict], args: Namespace) -> None:
    """Time prediction, all points in turns, one image after the other."""

    def predict(model: torch.nn.Module, point: dict, batches: list[dict]) -> None:
        with setting(model, point):
            for batch in batches:
                model.predict(batch['inputs'], batch['data_samples'])

    torch.set_num_threads(args.threads)
    functions = {}
    for entry, cfg in zip(models, cfgs, strict=True):
        model = build_gated_model(cfg, entry['checkpoint'], args.device)
        batches = [model.data_preprocessor(batch) for batch in load_split(cfg, 'test', args.time_images)]
        own = [point for point in points if point['model'] == entry['name']]
        functions |= {point['name']: partial(predict, model, point, batches) for point in own}
    measure = cuda_ms if args.device == 'cuda' else process_ms
    times = interleave(functions, measure, args.time, progress=partial(track, description='timing'))
    for point in points:
        point |= quartiles(times[point['name']] / len(batches), 'time_ms')


def compare_points(points: list[dict], pairs: list[tuple[str, str]]) -> list[dict]:
    """Bootstrap of pairs of points, by name."""
    by_name = {point['name']: point for point in points}
    compared = []
    for a, b in pairs:
        first, second = np.array(by_name[a]['areas'], float), np.array(by_name[b]['areas'], float)
        row = dict(a=a, b=b, gmacs=[by_name[name]['gmacs'] for name in (a, b)], num_images=len(first))
        compared.append(row | bootstrap_difference(first, second))
    return compared


def format_bootstrap(row: dict) -> str:
    text = '{a} minus {b}: {difference:+.2f} mIoU, 95 % interval [{low:+.2f}, {high:+.2f}] over {num_images} images'
    return text.format(**row) + ' ({:.4g} and {:.4g} GMACs)'.format(*row['gmacs'])


def format_rows(points: list[dict]) -> list[dict]:
    """Rows of the table: what every point has, and whether it is on the front of mIoU against GMACs."""
    front = pareto_front([point['gmacs'] for point in points], [point['mIoU'] for point in points])
    columns = [name for name in COLUMNS if all(name in point for point in points)]
    return [
        dict(name=point['name'], **{name: point[name] for name in columns}, pareto=bool(best))
        for point, best in zip(points, front, strict=True)
    ]


def format_csv(rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def format_table(rows: list[dict]) -> Table:
    table = Table(*(name.replace('_', ' ') for name in rows[0]), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(f'{value:.4g}' if type(value) is float else str(value) for value in row.values()))
    return table


def read_record(path: Path) -> dict:
    """What an earlier call has left in the folder.

    Raises:
        ValueError: If it is something else.
    """
    if not path.exists():
        return dict(points=[])
    try:
        record = json.loads(path.read_text())
        return record | dict(points=[point for point in record['points'] if point['key'] and point['name']])
    except (ValueError, KeyError, TypeError, OSError):
        raise ValueError(f"'{path}': wanted the points of an earlier call, got something else; remove it.") from None


def main() -> None:
    args = parse_args()
    use_safe_loader()
    console = Console()
    out_dir = Path(args.out_dir)
    path = out_dir / 'points.json'
    with one_line_errors():
        models = read_models(args)
        cfgs = [load_config(Namespace(**vars(args) | dict(config=model['config']))) for model in models]
        points = [point for model, cfg in zip(models, cfgs, strict=True) for point in make_points(model, cfg, args)]
        names = [point['name'] for point in points]
        if unknown := [name for pair in args.bootstrap for name in pair if name not in names]:
            raise ValueError(f'--bootstrap: wanted two of {names}, got {unknown[0]!r}.')
        record = read_record(path)
        cached = {point['key']: point for point in record['points']}
        record |= describe_run(Namespace(config=None, checkpoint=None, **vars(args)), SEED, args.device)

        def save(*done: dict) -> None:
            cached.update((point['key'], point) for point in done)
            kept = [point for point in cached.values() if point['name'] not in names or point['key'] in keys]
            write_files({path: json.dumps(record | dict(points=kept)).encode()})

        keys = [point['key'] for point in points]
        for model, cfg in zip(models, cfgs, strict=True):
            missing = [point for point in points if point['model'] == model['name'] and point['key'] not in cached]
            if missing:
                evaluate_model(model, cfg, missing, args, save)
        points = [cached[point['key']] | point for point in points]
        for a, b in pairwise(points):
            check_same_images(np.array(a['areas']), np.array(b['areas']))
        if args.time and record.get('timed') != sorted(keys):
            time_points(models, cfgs, points, args)
            record['timed'] = sorted(keys)
        record['bootstrap'] = compare_points(points, args.bootstrap)
        save(*points)

    timed = set(keys) <= set(record.get('timed', ()))  # times of several calls do not compare
    costs = {name: title for name, title in COSTS.items() if name != 'time_ms' or timed}
    scores = {name: title for name, title in SCORES.items() if all(name in point for point in points)}
    rows = format_rows(points if timed else [{k: v for k, v in p.items() if k != 'time_ms'} for p in points])
    write_files({out_dir / 'tradeoff.csv': format_csv(rows)})
    draw_tradeoff(points, costs, scores, out_dir / 'tradeoff.png')
    console.print(format_table(rows))
    console.print(*map(format_bootstrap, record['bootstrap']), NOTE, sep='\n', highlight=False, soft_wrap=True)
    console.print(f'written {path}, tradeoff.csv, tradeoff.png', highlight=False, soft_wrap=True)


if __name__ == '__main__':
    main()
