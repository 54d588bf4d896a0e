"""SIGINT and SIGTERM end a training with a checkpoint."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce, is_distributed, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .checkpoint import SafeCheckpointHook

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A signal ended the training.

    Attributes:
        signum: The signal.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


@HOOKS.register_module()
class InterruptHook(Hook):
    """At SIGINT (Ctrl-C) or SIGTERM, finish the iteration, save a checkpoint and raise `Interrupted`.

    A second signal ends the process at once. One that the process was started to ignore stays ignored. Of several
    processes, all stop at the same iteration. Workers of the training's data loaders go on when terminals and clusters
    send the signal to the whole group, and end with the process (not on macOS and Windows, for want of `sigwaitinfo`).

    Args:
        interval: Of several processes, how many iterations pass between two agreements whether to stop.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self._signum = 0
        self._training = False
        self._former: dict[int, Any] = {}

    def before_run(self, runner: Runner) -> None:
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:  # no worker has been started yet, or RandomStateHook starts them anew
                loop.dataloader.worker_init_fn = partial(start_worker, loop.dataloader.worker_init_fn)

    def before_train(self, runner: Runner) -> None:
        self._training = True
        if threading.current_thread() is threading.main_thread():
            heard = [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
            self._former = {signum: signal.signal(signum, self._note) for signum in heard}

    def after_train(self, runner: Runner) -> None:
        self._restore()
        self._training = False

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        step = runner.iter + 1
        if self._agree(step % self.interval == 0):
            self._stop(runner, step)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        saved = runner.message_hub.runtime_info.get('last_step') == runner.iter
        if self._signum and saved and not is_distributed():
            self._stop(runner, runner.iter)

    def after_val(self, runner: Runner) -> None:
        if self._training and self._agree(True):
            self._stop(runner, runner.iter)

    def _note(self, signum: int, frame: Any) -> None:
        self._signum = signum
        self._restore()
        name = signal.Signals(signum).name
        sys.stderr.write(f'{name}: stopping after this iteration, with a checkpoint; a second one stops at once\n')

    def _agree(self, due: bool) -> int:
        """The signal that any process got; of several, asked only when due, in all at the same iteration."""
        if not is_distributed():
            return self._signum
        if due:
            signum = torch.tensor(self._signum)
            all_reduce(signum, 'max')
            self._signum = int(signum)
        return self._signum if due else 0

    def _stop(self, runner: Runner, step: int) -> None:
        self._restore()
        path = None
        for hook in runner.hooks:
            if isinstance(hook, SafeCheckpointHook):
                path = hook.save_now(runner, step)
        name = signal.Signals(self._signum).name
        end = f'checkpoint {path}; --resume goes on' if path else 'no checkpoint: the config has no CheckpointHook'
        runner.logger.info(f'{name}: stopped after iteration {step}')
        raise Interrupted(f'{name}: stopped after iteration {step}, {end}.' if is_main_process() else '', self._signum)

    def _restore(self) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        self._former = {}


def start_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Start a worker of a data loader that signals to the whole group do not end, only the process that started it."""
    if hasattr(signal, 'sigwaitinfo'):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_end_with_parent, daemon=True).start()
    if init is not None:
        init(worker)


def _end_with_parent() -> None:
    while True:
        received = signal.sigwaitinfo(SIGNALS)
        if received.si_signo == signal.SIGTERM and received.si_pid == os.getppid():
            os._exit(0)
