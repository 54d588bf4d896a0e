"""Train a model.

msvit train CONFIG --work-dir work_dirs/example --cfg-options randomness.seed=0
"""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...checkpoints import (
    check_coverage,
    check_finite,
    check_folder,
    check_resumable,
    fetch,
    find_resumable,
    load_checkpoint_safely,
    use_safe_loader,
)
from ...checkpoints.starting import addresses, adopt_weights, forget_addresses, needed_keys
from ...datasets.configs import type_name
from ...datasets.named import SampleError
from ...engine import NonFiniteError
from ...models import ImageMemoryError
from ..config import load_config
from ..config_checks import check_config, check_entries
from ..errors import one_line_errors
from ..guards import LockedError, add_guards, end_in_one_line, sole_training, until_it_runs
from ..images import check_data
from ..machine import check_machine
from ..models import build_loops, build_runner, check_fits, unwrap


def apply_options(cfg: Config, args: Namespace) -> None:
    """Write the options of training into the config."""
    if args.amp:
        cfg.optim_wrapper.setdefault('type', 'OptimWrapper')
        if type_name(cfg.optim_wrapper) not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise ValueError(f"--amp: wanted optim_wrapper.type 'OptimWrapper', got '{type_name(cfg.optim_wrapper)}'.")
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError('--auto-scale-lr: wanted auto_scale_lr.base_batch_size in the config, got none.')
        cfg.auto_scale_lr.enable = True
    if args.resume or (cfg.get('resume') and not cfg.get('load_from')):
        named = args.resume not in (None, 'auto')
        checkpoint = args.resume if named else find_resumable(cfg.work_dir)
        if checkpoint is None:
            start = f'from the weights of {cfg.load_from}' if cfg.get('load_from') else 'from the beginning'
            print(f'--resume: no checkpoint in {cfg.work_dir}, starting a new run {start}')
        else:
            cfg.load_from = str(checkpoint)
        cfg.resume = checkpoint is not None


def keep_seed(cfg: Config, checkpoint: Mapping[str, Any]) -> None:
    """Let a resumed run have the seed that its beginning drew, unless the config sets one."""
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=checkpoint['meta'].get('seed'))


def main(args: Namespace) -> None:
    use_safe_loader()
    with one_line_errors():
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        check_entries(cfg, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
        apply_options(cfg, args)
        check_config(cfg)
        check_machine(cfg, train=True)
        check_data(cfg, 'train', 'val')
        check_folder(Path(cfg.work_dir), overwrite=True)
        if not cfg.get('resume') and (earlier := find_resumable(cfg.work_dir)):
            print(f'{earlier} is of an earlier run, whose checkpoints this one replaces; --resume goes on from it')
        checkpoint = load_checkpoint_safely(cfg.load_from) if cfg.get('load_from') else None
        check_finite(checkpoint['state_dict'] if checkpoint else {})
        if cfg.get('resume') and checkpoint:
            check_resumable(checkpoint)
            keep_seed(cfg, checkpoint)
        if checkpoint is None:
            for url in addresses(cfg.model):
                fetch(url)

    with end_in_one_line(), one_line_errors(LockedError), sole_training(cfg.work_dir, cfg.launcher):
        train(cfg, checkpoint)


def train(cfg: Config, checkpoint: Mapping[str, Any] | None) -> None:
    """Train with every guard in place."""
    with one_line_errors():
        runner = build_runner(cfg)
    add_guards(runner)
    build_loops(runner, 'train', 'val')
    if checkpoint:
        model = unwrap(runner.model)
        forget_addresses(model)
        with one_line_errors():
            if cfg.get('resume'):
                check_fits(model, checkpoint['state_dict'])
            else:
                # A dense model may start a gated one, and its head may have other classes.
                weights = adopt_weights(model, checkpoint['state_dict'])
                check_coverage(needed_keys(model), weights)
        del checkpoint
    with until_it_runs(runner), one_line_errors(NonFiniteError, SampleError, ImageMemoryError):
        runner.train()
