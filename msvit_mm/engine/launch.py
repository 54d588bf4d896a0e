"""What the training and the test command share: read a config, check the machine, build the runner."""

import contextlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.fileio import LocalBackend, register_backend
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..checkpoints import check_coverage, check_shapes, load_checkpoint_safely
from ..stack import INSTALL_DETECTION

AMP_DEVICES = ('cuda', 'npu', 'mlu', 'musa')
RENDEZVOUS = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')


def add_common_arguments(parser: ArgumentParser) -> None:
    """Add the options that both commands have, under the names mmsegmentation gives them."""
    parser.add_argument(
        '--work-dir', help='directory of logs, metrics and checkpoints; default work_dirs/<config name>'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override config entries: key=value, key="[a,b]", randomness.seed=0',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')


@contextlib.contextmanager
def one_line_errors(kind: type[ValueError] = ValueError) -> Iterator[None]:
    """Turn the error of a check into one line on stderr and exit status 1."""
    try:
        yield
    except kind as error:
        raise SystemExit(f'error: {error}') from None


def load_config(args: Namespace) -> Config:
    """Read the config file and merge the common command-line options into it.

    Raises:
        ValueError: If the config file does not exist, or needs a package that is not there.
    """
    if not Path(args.config).is_file():
        raise ValueError(f"config '{args.config}': wanted a file, got none.")
    # For `_base_ = 'mmseg::...'`: the fork's distribution is not called mmsegmentation, the import name serves both.
    MODULE2PACKAGE.update(mmseg='mmseg', mmdet='mmdet')
    try:
        cfg = Config.fromfile(args.config)
    except ImportError as error:
        reason = error.__context__ or error  # mmengine hides what a custom import said
        hint = f'; {INSTALL_DETECTION}' if str(reason).startswith('mmdet ') else ''
        raise ValueError(f"config '{args.config}': {reason}{hint}") from error
    cfg.launcher = args.launcher
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def check_machine(cfg: Config, train: bool) -> None:
    """Check that this machine has what the config and the launcher ask for.

    Raises:
        ValueError: If the device, mixed precision or the launcher cannot be had.
    """
    device = get_device()
    wanted = cfg.get('device', device)
    if wanted.split(':')[0] != device:
        raise ValueError(f"device: wanted '{wanted}', got '{device}'; CUDA_VISIBLE_DEVICES selects the GPUs, -1 none.")
    if train and cfg.optim_wrapper.get('type') == 'AmpOptimWrapper' and device not in AMP_DEVICES:
        raise ValueError(f"mixed precision: wanted a device of {', '.join(AMP_DEVICES)}, got '{device}'; drop --amp.")
    if cfg.launcher == 'none':
        return
    if cfg.launcher != 'pytorch' and device == 'cpu':
        raise ValueError(f'--launcher {cfg.launcher}: wanted GPUs, got none; without GPUs use tools/dist_train.sh.')
    if cfg.launcher == 'pytorch':
        missing = [name for name in RENDEZVOUS if name not in os.environ]
        if missing:
            raise ValueError(f'--launcher pytorch: wanted {", ".join(missing)} in the environment; use torchrun.')
        local_rank, count = int(os.environ['LOCAL_RANK']), torch.cuda.device_count()
        if device == 'cuda' and local_rank >= count:
            raise ValueError(f'--launcher pytorch: wanted a GPU for local rank {local_rank}, got {count} GPUs.')


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the folders of the datasets exist and hold something; some hosts fail on them late or obscurely.

    Args:
        splits: Of 'train', 'val', 'test'.

    Raises:
        ValueError: If a folder is missing or empty.
    """
    for split in splits:
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset', {})
        while 'dataset' in dataset:  # wrappers such as RepeatDataset
            dataset = dataset['dataset']
        prefixes = dataset.get('data_prefix', {})
        for folder in prefixes.values() if isinstance(prefixes, dict) else ():
            path = Path(dataset.get('data_root') or '', folder)
            if '://' not in str(folder) and not (path.is_dir() and any(path.iterdir())):
                got = 'an empty folder' if path.is_dir() else 'no such folder'
                raise ValueError(
                    f"{split} data: wanted files in '{path}', got {got}; "
                    f'link the dataset there or set {split}_dataloader.dataset.data_root by --cfg-options.'
                )


def build_runner(cfg: Config) -> Runner:
    """Build the runner; without a GPU, processes talk through gloo and SyncBN becomes BN.

    A checkpoint is written beside its final name and then renamed: an interrupted save leaves the older file as it was.
    """
    register_backend('local', _AtomicLocalBackend, force=True, prefixes='')
    if cfg.launcher == 'mpi':
        os.environ.setdefault('LOCAL_RANK', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', '0'))
    if cfg.launcher == 'pytorch' and get_device() == 'cpu':
        # Before the runner, whose own initialisation selects a CUDA device first.
        torch.distributed.init_process_group('gloo')
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
        cfg.pop('sync_bn', None)
        _replace_sync_bn(cfg.model)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def build_test_runner(cfg: Config, checkpoint: str) -> Runner:
    """Build a quiet runner of a checkpoint, whose ``test`` may be called again and again.

    Raises:
        ValueError: If machine or data lack something, or the checkpoint does not fit the model.
    """
    check_machine(cfg, train=False)
    check_data(cfg, 'test')
    weights = load_checkpoint_safely(checkpoint)['state_dict']
    cfg.load_from = checkpoint
    cfg.resume = False
    cfg.log_level = 'WARNING'
    cfg.randomness = {'seed': 0, **cfg.get('randomness', {})}
    runner = build_runner(cfg)
    state = unwrap(runner.model).state_dict()
    check_coverage(state, weights)
    check_shapes(state, weights)
    return runner


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model below wrappers for distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Return the metrics that are numbers as one line.

    Example:
        >>> format_metrics({'mIoU': 41.238, 'num_tokens': 612.5})
        'mIoU 41.24 | num_tokens 612.5'
    """
    return ' | '.join(f'{name} {value:.4g}' for name, value in metrics.items() if isinstance(value, Real))


class _AtomicLocalBackend(LocalBackend):
    def put(self, obj: bytes, filepath: str | Path) -> None:
        partial = f'{filepath}.part'
        super().put(obj, partial)
        os.replace(partial, filepath)


def _replace_sync_bn(node: Any) -> None:
    if isinstance(node, dict):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        for child in node.values():
            _replace_sync_bn(child)
    elif isinstance(node, list | tuple):
        for child in node:
            _replace_sync_bn(child)
