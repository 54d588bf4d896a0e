"""Plot mIoU against GMACs, and time, for any set of configs and checkpoints, and any of them swept over budgets.

msvit plot-tradeoff OUT_DIR --model learned CONFIG CHECKPOINT --budgets 40 60 80 --random 0.5 0.75
"""

from argparse import Namespace
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import track

from ...checkpoints import use_safe_loader, write_files
from ...studies import sweep
from ...visualization import draw_tradeoff
from ..config import load_config
from ..errors import one_line_errors
from ..images import load_split
from ..model_list import input_files, read_models
from ..models import build_gated_model, build_test_runner, check_budgets, check_regions, check_segmentor
from ..outputs import check_continued, png_bytes
from ..records import csv_bytes, describe_run, make_table

NUM_CALIBRATION_IMAGES = 64
PICTURES = 'tradeoff.csv', 'tradeoff.png'
DIFFERENCE = (
    '{a} minus {b}: {difference:+.2f} mIoU, 95 % interval [{low:+.2f}, {high:+.2f}] over {num_images} images '
    '({gmacs[0]:.4g} and {gmacs[1]:.4g} GMACs)'
)


def evaluate(model: dict, cfg: Config, file: sweep.PointFile, args: Namespace) -> None:
    """Evaluate the points of one model that are missing in the file, and save each when it is done."""
    if not (points := file.missing(model['name'])):
        return
    sweep.set_metrics(cfg, args.tolerance)
    runner = build_test_runner(cfg, model['checkpoint'])
    check_segmentor(runner.model, cfg)
    if any(point['kind'] in sweep.SWEEPS for point in points):
        check_regions(runner.model, cfg)
    if any(point['kind'] == 'coarse_ratios' for point in points):
        gated = build_gated_model(cfg, model['checkpoint'], args.device)
        images = load_split(cfg, 'train', NUM_CALIBRATION_IMAGES)
        sweep.calibrate_points(points, gated, track(images, f'calibrating {model["name"]}'))
    for point in points:
        print(f'{point["name"]} ...', flush=True)
        point |= sweep.evaluate_point(runner, point)
        file.save(point)


def time_points(models: list[dict], cfgs: list[Config], points: list[dict], args: Namespace) -> None:
    """Give all points their times, from one run over all of them."""
    torch.set_num_threads(args.threads or 1)
    built = {}
    for model, cfg in zip(models, cfgs, strict=True):
        network = build_gated_model(cfg, model['checkpoint'], args.device)
        batches = [network.data_preprocessor(batch) for batch in load_split(cfg, 'test', args.time_images or 4)]
        built[model['name']] = network, batches
    sweep.time_points(points, built, args.device, args.time, partial(track, description='timing'))


def report(points: list[dict], file: sweep.PointFile, out_dir: Path) -> None:
    """Write and show the points as a table and as a picture."""
    timed = file.is_timed()
    points = points if timed else [{k: v for k, v in point.items() if k != 'time_ms'} for point in points]
    costs = {name: title for name, title in sweep.COSTS.items() if name != 'time_ms' or timed}
    scores = {name: title for name, title in sweep.SCORES.items() if all(name in point for point in points)}
    rows = sweep.tabulate(points)
    picture = png_bytes(draw_tradeoff(points, costs, scores), dpi=120)
    write_files({out_dir / name: x for name, x in zip(PICTURES, (csv_bytes(rows), picture), strict=True)})
    console = Console()
    console.print(make_table(rows))
    differences = [DIFFERENCE.format(**row) for row in file.record['bootstrap']]
    console.print(*differences, '1 MAC = 1 FLOP, as the papers count.', sep='\n', highlight=False, soft_wrap=True)
    console.print(f'written {file.path}, tradeoff.csv, tradeoff.png', highlight=False, soft_wrap=True)


def main(args: Namespace) -> None:
    use_safe_loader()
    out_dir = Path(args.out_dir)
    with one_line_errors():
        models = read_models(args)
        check_continued(out_dir, ('points.json', *PICTURES), args.overwrite, input_files(models))
        cfgs = [load_config(model['config'], args.cfg_options, args.work_dir) for model in models]
        pairs = zip(models, cfgs, strict=True)
        wanted = [point for model, cfg in pairs for point in sweep.make_points(model, cfg, args.tolerance)]
        sweep.check_points(wanted, args.bootstrap)
        run = describe_run(vars(args), sweep.SEED, args.device)
        for model, cfg in zip(models, cfgs, strict=True):
            check_budgets(model['name'], model['budgets'], cfg, args.device)
        file = sweep.PointFile(out_dir / 'points.json', wanted, run)
        for model, cfg in zip(models, cfgs, strict=True):
            evaluate(model, cfg, file, args)
        points = file.complete()
        compared = sweep.compare_points(points, args.bootstrap)
        if args.time and not file.is_timed(exactly=True):
            time_points(models, cfgs, points, args)
            file.record['timed'] = sorted(point['key'] for point in points)
        file.record['bootstrap'] = compared
        file.save(*points)
        report(points, file, out_dir)
