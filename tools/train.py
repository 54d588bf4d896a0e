"""Train a model: python tools/train.py CONFIG --work-dir work_dirs/example --cfg-options randomness.seed=0"""

from argparse import ArgumentParser, Namespace

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from msvit_mm.checkpoints import (
    check_coverage,
    check_resumable,
    check_shapes,
    load_checkpoint_safely,
    use_safe_loader,
)
from msvit_mm.engine.launch import (
    add_common_arguments,
    build_runner,
    check_data,
    check_machine,
    load_config,
    one_line_errors,
    unwrap,
)


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='continue from this checkpoint; without PATH, from the latest one in the work directory, if there is one',
    )
    parser.add_argument('--amp', action='store_true', help='train with mixed precision (needs a GPU)')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size')
    add_common_arguments(parser)
    return parser.parse_args()


def apply_options(cfg: Config, args: Namespace) -> None:
    """Write the options of training into the config."""
    if args.amp:
        wrapper = cfg.optim_wrapper.setdefault('type', 'OptimWrapper')
        if wrapper not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise ValueError(f"--amp: wanted optim_wrapper.type 'OptimWrapper', got '{wrapper}'.")
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError('--auto-scale-lr: wanted auto_scale_lr.base_batch_size in the config, got none.')
        cfg.auto_scale_lr.enable = True
    if args.resume:
        checkpoint = find_latest_checkpoint(cfg.work_dir) if args.resume == 'auto' else args.resume
        if checkpoint is None:
            print(f'--resume: no checkpoint in {cfg.work_dir}, starting a new run')
        cfg.resume = checkpoint is not None
        cfg.load_from = checkpoint or cfg.get('load_from')


def main() -> None:
    args = parse_args()
    use_safe_loader()
    with one_line_errors():
        cfg = load_config(args)
        apply_options(cfg, args)
        check_machine(cfg, train=True)
        check_data(cfg, 'train', 'val')
        checkpoint = load_checkpoint_safely(cfg.load_from) if cfg.get('load_from') else None
        if cfg.get('resume') and checkpoint:
            check_resumable(checkpoint)

    runner = build_runner(cfg)
    if checkpoint:
        model_state = unwrap(runner.model).state_dict()
        with one_line_errors():
            if cfg.get('resume'):
                check_coverage(model_state, checkpoint['state_dict'])
                check_shapes(model_state, checkpoint['state_dict'])
            else:
                # A dense model may start a gated one, and its head may have other classes.
                check_coverage(model_state, checkpoint['state_dict'], allowed_missing=('gate', 'gate_loss'))
        del checkpoint
    runner.train()


if __name__ == '__main__':
    main()
