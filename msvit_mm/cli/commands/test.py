"""Test a trained model.

msvit test CONFIG CHECKPOINT --work-dir work_dirs/example
"""

import os
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from ...checkpoints import check_folder, load_checkpoint_safely, use_safe_loader
from ...datasets.configs import datasets_of, type_name
from ...datasets.named import SampleError
from ...models import ImageMemoryError
from ...ops.gating import BudgetError
from ..config import load_config
from ..config_checks import check_config, check_entries
from ..errors import one_line_errors
from ..guards import until_it_runs
from ..images import check_data, data_folders
from ..machine import check_machine
from ..models import build_loops, build_runner, check_fits, unwrap
from ..records import format_metrics


def apply_options(cfg: Config, args: Namespace) -> None:
    """Write the options of testing into the config."""
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.wait_time is not None and not args.show:
        raise ValueError(f'--wait-time: wanted --show beside it, got {args.wait_time:g} alone.')
    if args.show or args.show_dir:
        check_visualization(args, cfg)
        switch = 'enable' if cfg.get('default_scope') == 'mmpretrain' else 'draw'
        wait_time = 2 if args.wait_time is None else args.wait_time
        cfg.default_hooks.visualization.update({switch: True, 'show': args.show, 'wait_time': wait_time})
        if args.show_dir:
            cfg.visualizer.save_dir = args.show_dir
    if args.tta:
        missing = [key for key in ('tta_pipeline', 'tta_model') if not cfg.get(key)]
        if missing:
            raise ValueError(f'--tta: wanted {" and ".join(missing)} in the config, got none.')
        for dataset in datasets_of(cfg, 'test'):
            dataset['pipeline'] = cfg.tta_pipeline
        cfg.model = dict(**cfg.tta_model, module=cfg.model)
    if args.out:
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        writers = [evaluator for evaluator in evaluators if type_name(evaluator) in ('IoUMetric', 'CityscapesMetric')]
        if not writers:
            raise ValueError(
                f'--out: wanted an IoUMetric or CityscapesMetric, got {[type_name(e) for e in evaluators]}.'
            )
        for evaluator in writers:
            evaluator.update(output_dir=args.out, keep_results=True)


def check_visualization(args: Namespace, cfg: Config) -> None:
    """Check that predictions can be shown or painted.

    Raises:
        ValueError: If not.
    """
    if args.show and args.show_dir:
        raise ValueError('--show, --show-dir: wanted one of them, got both, of which the host takes the window alone.')
    if args.show and sys.platform == 'linux' and not {'DISPLAY', 'WAYLAND_DISPLAY'} & set(os.environ):
        raise ValueError('--show: wanted a display, got none; --show-dir writes the pictures.')
    if not (cfg.get('default_hooks') or {}).get('visualization') or not cfg.get('visualizer'):
        wanted = 'default_hooks.visualization and visualizer in the config'
        raise ValueError(f'--show, --show-dir: wanted {wanted}, got none.')


def check_names_differ(dataset: Any) -> None:
    """Check that no two images have one name, by which the host writes their predictions.

    Raises:
        ValueError: If two have.
    """
    paths = [dataset.get_data_info(i).get('img_path', str(i)) for i in range(len(dataset))]
    again = [name for name, count in Counter(Path(path).stem for path in paths).items() if count > 1]
    if again:
        raise ValueError(
            f"--out: wanted images of different names, got '{again[0]}' twice; `msvit predict` takes them."
        )


def main(args: Namespace) -> None:
    use_safe_loader()
    with one_line_errors():
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        check_entries(cfg, 'model', 'test_dataloader', 'test_cfg', 'test_evaluator')
        check_config(cfg)
        apply_options(cfg, args)
        check_machine(cfg, train=False)
        check_data(cfg, 'test')
        for folder in filter(None, (args.out, args.show_dir)):
            check_folder(Path(folder), args.overwrite, data_folders(cfg, 'test'))
        check_folder(Path(cfg.work_dir), overwrite=True)
        weights = load_checkpoint_safely(args.checkpoint)['state_dict']

    with one_line_errors():
        runner = build_runner(cfg)
        check_fits(unwrap(runner.model), weights)
    build_loops(runner, 'test')
    if args.out:
        with one_line_errors():
            check_names_differ(runner.test_dataloader.dataset)
    with until_it_runs(runner), one_line_errors(BudgetError, SampleError, ImageMemoryError):
        metrics = runner.test()
    if is_main_process():
        print(format_metrics(metrics))
