"""Of several processes, name the one that has stopped."""

import os
import sys
import threading

import torch.distributed
from mmengine.dist import get_rank, get_world_size, is_distributed
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

DONE = 'done'


@HOOKS.register_module()
class RankWatchHook(Hook):
    """End a training in several processes when one of them gives no sign of life, and say which.

    A thread of each process counts in the store that the processes share and reads the others' counts; a second one
    judges. Without it, the others wait in the next exchange, silently and for as long as the backend's own timeout is.

    Time is counted in the own rounds: processes that are stopped together, and go on together, are not taken for dead.
    A process that lives but makes no progress, such as one that waits for a slow disk, is not noticed.

    Args:
        timeout: Seconds without a sign of life.
        interval: Seconds between two signs.
    """

    def __init__(self, timeout: float = 300, interval: float = 5) -> None:
        self.timeout = timeout
        self.interval = interval
        self._over = threading.Event()
        self._signs: dict[int, bytes] = {}
        self._silent: dict[int | None, int] = {}  # rounds without a sign of a rank, or of the store (None)

    def before_train(self, runner: Runner) -> None:
        if is_distributed():
            store = torch.distributed.distributed_c10d._get_default_store()
            store = store.clone() if hasattr(store, 'clone') else store  # a connection that nothing else waits on
            self._store = torch.distributed.PrefixStore('rank_watch', store)
            others = [rank for rank in range(get_world_size()) if rank != get_rank()]
            self._signs, self._silent = dict.fromkeys(others, b''), dict.fromkeys([*others, None], 0)
            for target, words in ((self._exchange, (runner,)), (self._judge, ())):
                threading.Thread(target=target, args=words, daemon=True).start()

    def after_train(self, runner: Runner) -> None:
        if is_distributed():
            self._over.set()
            self._store.set(str(get_rank()), DONE)

    def _exchange(self, runner: Runner) -> None:
        count = 0
        while not self._over.wait(self.interval):
            count += 1
            try:
                self._store.set(str(get_rank()), f'{count} {runner.iter + 1}')
                for rank, sign in self._signs.items():
                    new = self._store.get(str(rank)) if self._store.check([str(rank)]) else b''
                    if new != sign or new == DONE.encode():
                        self._signs[rank], self._silent[rank] = new, 0
            except RuntimeError:  # the store has gone: the judge waits for its signs in vain
                return
            self._silent[None] = 0

    def _judge(self) -> None:
        while not self._over.wait(self.interval):
            self._silent = {rank: rounds + 1 for rank, rounds in self._silent.items()}
            dead = [rank for rank, rounds in self._silent.items() if rounds * self.interval > self.timeout]
            if None in dead:
                agent = os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True'
                self._end('torchrun' if agent else 'rank 0, which keeps the store,', '')
            elif dead:
                sign = self._signs[dead[0]].decode().partition(' ')[2]  # type: ignore[index]  # None is handled above
                self._end(f'rank {dead[0]}', f', the last in iteration {sign}' if sign else ', and none before')

    def _end(self, who: str, last: str) -> None:
        sys.stderr.write(
            f'error: {who} has given no sign of life for {self.timeout:g} s{last}; '
            f'rank {get_rank()} ends; the last checkpoint is complete, --resume goes on.\n'
        )
        sys.stderr.flush()
        os._exit(1)
