"""Of several processes, name the one that has stopped."""

import os
import sys
import threading
import time

import torch.distributed
from mmengine.dist import get_rank, get_world_size, is_distributed
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class RankWatchHook(Hook):
    """End a training in several processes when one of them gives no sign of life, and say which.

    A thread of each process counts in the store that the processes share, and looks at the others' counts. Without it,
    the others wait in the next exchange, silently and for as long as the backend's own timeout is.

    A process that lives but makes no progress, such as one that waits for a slow disk, is not noticed.

    Args:
        timeout: Seconds without a sign of life.
        interval: Seconds between two signs.
    """

    def __init__(self, timeout: float = 300, interval: float = 5) -> None:
        self.timeout = timeout
        self.interval = interval
        self._done = threading.Event()

    def before_train(self, runner: Runner) -> None:
        if is_distributed():
            store = torch.distributed.distributed_c10d._get_default_store()
            store = store.clone() if hasattr(store, 'clone') else store  # a connection that nothing else waits on
            self._store = torch.distributed.PrefixStore('rank_watch', store)
            threading.Thread(target=self._watch, args=(runner,), daemon=True).start()

    def after_train(self, runner: Runner) -> None:
        if is_distributed():
            self._done.set()
            self._store.set(str(get_rank()), 'done')

    def _watch(self, runner: Runner) -> None:
        rank, count = get_rank(), 0
        seen = {other: (b'', time.monotonic()) for other in range(get_world_size()) if other != rank}
        while not self._done.wait(self.interval):
            count += 1
            self._store.set(str(rank), f'{count} {runner.iter + 1}')
            for other, (value, since) in seen.items():
                sign = self._store.get(str(other)) if self._store.check([str(other)]) else b''
                if sign != value or sign == b'done':
                    seen[other] = sign, time.monotonic()
                elif time.monotonic() - since > self.timeout:
                    self._end(other, value)

    def _end(self, other: int, sign: bytes) -> None:
        last = f'the last in iteration {sign.decode().partition(" ")[2]}' if sign else 'and none before'
        sys.stderr.write(
            f'error: rank {other} has given no sign of life for {self.timeout:g} s, {last}; '
            f'rank {get_rank()} ends; the last checkpoint is complete, --resume goes on.\n'
        )
        sys.stderr.flush()
        os._exit(1)
