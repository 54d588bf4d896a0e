"""What every training gets without asking: hooks against loss and silence, and one training to a folder."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from ..engine import (
    FiniteLossHook,
    GateSaturationHook,
    Interrupted,
    InterruptHook,
    RandomStateHook,
    RankWatchHook,
    SafeCheckpointHook,
    SanityCheckHook,
)
from .errors import foreign_errors, one_line_errors

GUARDS = (FiniteLossHook, RandomStateHook, InterruptHook, GateSaturationHook, RankWatchHook, SanityCheckHook)
LOCK = 'train.lock'
RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


class LockedError(ValueError):
    """Another training has the folder."""


def add_guards(runner: Runner) -> None:
    """Give a runner the guards that it lacks, and the safe hook in place of mmengine's ``CheckpointHook``.

    They are no part of the config: that of the work directory stays what the user wrote.
    """
    hooks = runner.hooks
    hooks[:] = [SafeCheckpointHook.of(hook) if type(hook) is CheckpointHook else hook for hook in hooks]
    for guard in GUARDS:
        if not any(isinstance(hook, guard) for hook in hooks):
            runner.register_hook(guard())


@contextlib.contextmanager
def end_in_one_line() -> Iterator[None]:
    """A signal ends a training in one line, and in the exit status that shells give to it."""
    try:
        yield
    except Interrupted as stop:
        if str(stop):
            print(stop, flush=True)
        raise SystemExit(128 + stop.signum) from None
    except KeyboardInterrupt:
        raise SystemExit('error: interrupted, without a checkpoint of this moment.') from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SystemExit(f'error: {error.strerror}: {error.filename}; older checkpoints are complete.') from None


class _FirstIteration(Hook):
    """Knows whether it has passed."""

    passed = False

    def after_train_iter(self, *args: Any, **words: Any) -> None:
        self.passed = True

    def after_test_iter(self, *args: Any, **words: Any) -> None:
        self.passed = True


@contextlib.contextmanager
def until_it_runs(runner: Runner) -> Iterator[None]:
    """Let what the runner builds late, and the first iteration, say in one line what of the config they refuse."""
    first = _FirstIteration()
    runner.register_hook(first, priority='LOWEST')
    try:
        yield
    except (Interrupted, OSError):
        raise
    except Exception:
        if first.passed:
            raise
        resumed = (
            ', resuming: load_from starts anew where another optimizer or other parts train' if runner._resume else ''
        )
        with one_line_errors(), foreign_errors(f'before the end of the first iteration{resumed}'):
            raise


@contextlib.contextmanager
def sole_training(work_dir: str, launcher: str) -> Iterator[None]:
    """Let one training at a time write to a folder.

    The system holds the lock for the process, and the file tells who that is: whatever way it dies, the lock it leaves
    is known to be stale.

    Raises:
        LockedError: If another training has the folder.
    """
    rank = next((os.environ[name] for name in RANKS if name in os.environ), '0') if launcher != 'none' else '0'
    if rank != '0':
        yield
        return
    path = Path(work_dir) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a+') as file:
        _lock(file, path)
        file.truncate(0)
        file.write(json.dumps(_describe_process()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # not removed: another process may hold it open to try its lock


def _lock(file: TextIO, path: Path) -> None:
    """Take the lock of a file, unless the process that the file names lives.

    Both are asked: a file system may have no locks, and the workers of a killed training hold its lock a while longer.
    """
    file.seek(0)
    holder = _holder(file.read())
    alive = _is_alive(holder)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        busy = alive is True
    except OSError as error:
        held = error.errno in (errno.EACCES, errno.EAGAIN)
        busy = alive is not False if held else bool(holder) and alive is not False
    if busy:
        who = f'process {holder["pid"]} on {holder["host"]}, since {holder["since"]}' if holder else f'see {path}'
        raise LockedError(
            f"work directory '{path.parent}': wanted it for this training alone, got another one in it, {who}; "
            'wait for its end, or choose another --work-dir.'
        )


def _describe_process() -> dict:
    pid = os.getpid()
    since = time.strftime('%Y-%m-%d %H:%M:%S')
    return dict(pid=pid, host=socket.gethostname(), since=since, started=_started(pid))


def _holder(text: str) -> dict:
    try:
        holder = json.loads(text)
        return holder if {'pid', 'host', 'since'} <= holder.keys() else {}
    except (ValueError, AttributeError):
        return {}


def _is_alive(holder: dict) -> bool | None:
    """Whether the process of a lock lives; of another machine, or of nobody, that is not known."""
    if not holder or holder['host'] != socket.gethostname():
        return None
    try:
        os.kill(int(holder['pid']), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return holder.get('started') in (None, _started(holder['pid']))  # else the number is that of a later process


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the boot; none where the system does not tell."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]
    except (OSError, IndexError):
        return None
