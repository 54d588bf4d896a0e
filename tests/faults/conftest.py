"""Trainings in processes of their own that can be killed: forked from this one, which has imported everything."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader
from mmengine.utils import ManagerMixin

from msvit_cli import main

ROOT = Path(__file__).parents[2]
SCENES = ROOT / 'configs' / 'msvit_upernet_scenes.py'
# The shipped config with fewer and smaller steps: everything that draws by chance is in it, one kept checkpoint, too.
SHORT = (
    'train_dataloader.dataset.num_images=40',
    'train_dataloader.batch_size=4',
    'val_dataloader.dataset.num_images=8',
    'val_dataloader.batch_size=4',
    'train_cfg.max_iters=24',
    'train_cfg.val_interval=8',
    'default_hooks.checkpoint.interval=3',
    'default_hooks.logger.interval=4',
    'randomness.seed=0',
)
# The shipped config but for a length that has room in a test, a checkpoint after every iteration, and a seed.
SHIPPED = (
    'train_cfg.max_iters=60',
    'train_cfg.val_interval=60',
    'default_hooks.checkpoint.interval=1',
    'randomness.seed=0',
)
HANGS = 1800  # seconds after which something hangs, and is not only slow on a machine that has much to do


def _child(arguments, output, environment):
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, 'w', buffering=1), os.fdopen(2, 'w', buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setpgid(0, 0)
    for cls in _managers():
        cls._instance_dict = OrderedDict()
    CheckpointLoader._schemes = dict(CheckpointLoader._schemes)
    os.environ.update(environment, CUDA_VISIBLE_DEVICES='-1')
    torch.set_num_threads(1)
    main([str(argument) for argument in arguments])


def _managers(cls=ManagerMixin):
    return [cls, *(below for direct in cls.__subclasses__() for below in _managers(direct))]


class Training:
    """A `msvit train` of the Scenes config, by default the short one, in a process of its own."""

    def __init__(self, work_dir, *options, length=SHORT, resume=False, config=SCENES, environment=()):
        self.output = Path(tempfile.mkstemp(suffix='.txt', prefix='training_')[1])
        arguments = ['train', config, '--work-dir', work_dir, '--cfg-options', *length, *options]
        arguments += ['--resume'] if resume else []
        arguments += ['--launcher', 'pytorch'] if environment else []
        self.process = multiprocessing.get_context('fork').Process(
            target=_child, args=(arguments, self.output, environment)
        )
        self.process.start()

    def send(self, signum, whole_group=False):
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if whole_group else os.kill)(self.process.pid, signum)

    def end(self, timeout=HANGS):
        """Wait for the end, and return exit code and output."""
        self.process.join(timeout)
        output = self.output.read_text()
        assert self.process.exitcode is not None, output
        return self.process.exitcode, output

    def wait_for(self, condition, timeout=HANGS):
        until = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < until and self.process.is_alive(), self.output.read_text()
            time.sleep(0.02)


def saved_iteration(work_dir):
    """That of the newest complete checkpoint, or 0."""
    last = work_dir / 'last_checkpoint'
    return int(last.read_text().rpartition('_')[2].removesuffix('.pth')) if last.exists() else 0


@pytest.fixture
def start():
    """Start a training; what still runs at the end of the test is killed."""
    started = []

    def call(*args, **kwargs):
        started.append(Training(*args, **kwargs))
        return started[-1]

    yield call
    for training in started:
        if training.process.is_alive():
            training.send(signal.SIGKILL, whole_group=True)
        training.process.join()
        training.output.unlink()


def flatten(value, name=''):
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [item for key, child in pairs for item in flatten(child, f'{name}.{key}')]
    return [(name, value)]


@pytest.fixture(scope='session')
def differences():
    """Names of what differs between two checkpoints: weights, optimizer, schedules, random states, best score."""

    def compare(first, second):
        parts = ('state_dict', 'optimizer', 'param_schedulers', 'random_states')
        sides = []
        for path in (first, second):
            state = torch.load(path, weights_only=False)
            items = dict(item for part in parts for item in flatten(state[part], part))
            sides.append(items | dict(best=state['message_hub']['runtime_info'].get('best_score')))
        one, other = sides
        assert one.keys() == other.keys()
        same = {
            name: torch.equal(x, other[name]) if torch.is_tensor(x) else x == other[name] for name, x in one.items()
        }
        return [name for name, equal in same.items() if not equal]

    return compare


@pytest.fixture(scope='session')
def whole(tmp_path_factory):
    """Work directory of the uninterrupted run of a length, and its seconds; each is trained once."""

    @functools.cache
    def train(length=SHORT):
        work_dir = tmp_path_factory.mktemp('whole') / 'run'
        begin = time.monotonic()
        code, output = Training(work_dir, length=length).end()
        assert code == 0, output
        return work_dir, time.monotonic() - begin

    return train
