"""Trainings in two processes of which one is stopped or asked to end: the other does not wait without a word."""

import contextlib
import random
import signal
import socket

import pytest
from mmengine.config import Config

from .conftest import SCENES, saved_iteration

pytestmark = pytest.mark.slow
LAST = 'iter_24.pth'
SILENCE = 20  # seconds; longer than a busy machine keeps a process waiting


def free_port():
    """A port that is free now, of those that the system gives to nobody unasked."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(('127.0.0.1', port))
            return port
    raise OSError('no free port')


@pytest.fixture
def start_two(start, tmp_path):
    """Start the short Scenes training in two processes that talk through gloo, the store in the first."""
    config = tmp_path / 'watched.py'
    hooks = [*Config.fromfile(SCENES).custom_hooks, dict(type='RankWatchHook', timeout=SILENCE, interval=0.5)]
    config.write_text(f"_base_ = '{SCENES}'\ncustom_hooks = {[dict(hook) for hook in hooks]}\n")

    def call(work_dir, **words):
        shared = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
        environments = [dict(shared, RANK=rank, LOCAL_RANK=rank) for rank in '01']
        return [start(work_dir, config=config, environment=environment, **words) for environment in environments]

    return call


@pytest.mark.parametrize('stopped', [0, 1])
def test_a_stopped_rank_is_named(start_two, tmp_path, stopped):
    ranks = start_two(tmp_path / 'run')
    ranks[0].wait_for(lambda: saved_iteration(tmp_path / 'run') >= 3)
    ranks[stopped].send(signal.SIGSTOP, whole_group=True)
    code, output = ranks[1 - stopped].end()
    assert code == 1, output
    who = 'rank 0, which keeps the store, has given' if stopped == 0 else 'rank 1 has given'
    assert f'error: {who} no sign of life for {SILENCE} s' in output
    assert f'rank {1 - stopped} ends; the last checkpoint is complete' in output


def test_processes_that_are_stopped_together_go_on(start_two, tmp_path):
    ranks = start_two(tmp_path / 'run')
    ranks[0].wait_for(lambda: saved_iteration(tmp_path / 'run') >= 3)
    for rank in ranks:
        rank.send(signal.SIGSTOP, whole_group=True)
    ranks[0].process.join(1.5 * SILENCE)
    for rank in ranks:
        rank.send(signal.SIGCONT, whole_group=True)
    assert [rank.end()[0] for rank in ranks] == [0, 0]
    assert (tmp_path / 'run' / LAST).is_file()


def test_a_signal_to_one_stops_both_and_resuming_goes_on(start_two, differences, tmp_path):
    whole = start_two(tmp_path / 'whole')
    assert [rank.end()[0] for rank in whole] == [0, 0]
    ranks = start_two(tmp_path / 'run')
    ranks[0].wait_for(lambda: saved_iteration(tmp_path / 'run') >= 3)
    ranks[1].send(signal.SIGTERM)
    ended = [rank.end() for rank in ranks]
    assert [code for code, _ in ended] == [143, 143], ended
    assert 'SIGTERM: stopped after iteration' in ended[0][1].splitlines()[-1]
    assert [rank.end()[0] for rank in start_two(tmp_path / 'run', resume=True)] == [0, 0]
    assert differences(tmp_path / 'whole' / LAST, tmp_path / 'run' / LAST) == []
