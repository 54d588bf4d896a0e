"""What the machine has: checks before a command starts, and what its record says of it."""

import os
import platform

import mmengine
import torch
from mmengine.config import Config
from mmengine.device import get_device

from ..datasets.configs import type_name
from ..version import __version__

AMP_DEVICES = ('cuda', 'npu', 'mlu', 'musa')
RENDEZVOUS = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')


def check_machine(cfg: Config, train: bool) -> None:
    """Check that this machine has what the config and the launcher ask for.

    Raises:
        ValueError: If the device, mixed precision, compilation or the launcher cannot be had.
    """
    if cfg.get('compile'):
        raise ValueError(
            f'compile: wanted no compilation by the Runner, got {cfg.compile}; it would compile whole models, whose '
            'numbers of tokens change with every batch: torch.compile(model.backbone) in a script compiles what stays.'
        )
    device = get_device()
    wanted = cfg.get('device', device)
    if wanted.split(':')[0] != device:
        raise ValueError(f"device: wanted '{wanted}', got '{device}'; CUDA_VISIBLE_DEVICES selects the GPUs, -1 none.")
    if train and type_name(cfg.optim_wrapper) == 'AmpOptimWrapper' and device not in AMP_DEVICES:
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


def choose_device(device: str) -> str:
    """The device itself or, for ``auto``, a GPU where there is one."""
    if device == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    return device


def check_device(device: str) -> None:
    """Check that this machine has the device.

    Raises:
        ValueError: If it has not.
    """
    if device.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f"device: wanted '{device}', got a machine without CUDA.")


def describe_machine(device: str) -> dict:
    """Device, threads and versions, for a record of numbers."""
    on_cpu = not device.startswith('cuda')
    return dict(
        device=platform.processor() or platform.machine() if on_cpu else torch.cuda.get_device_name(device),
        threads=torch.get_num_threads(),
        versions=dict(msvit_mm=__version__, torch=torch.__version__, mmengine=mmengine.__version__),
    )
