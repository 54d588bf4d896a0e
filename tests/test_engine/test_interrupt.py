import os
import signal
import subprocess
from functools import partial

import pytest
from torch.utils.data import DataLoader

from msvit_mm.engine import Interrupted
from msvit_mm.engine.interrupt import start_worker


@pytest.fixture(autouse=True)
def interruptible():
    """What starts the tests may ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('by_epoch, at', [(False, 4), (False, 5), (True, 7), (True, 9)])
def test_a_signal_saves_and_the_resumed_run_is_the_uninterrupted_one(
    make_runner, call, tmp_path, assert_same_training, signum, by_epoch, at
):
    before = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
    last = 'epoch_4.pth' if by_epoch else 'iter_12.pth'
    make_runner('whole', by_epoch=by_epoch).train()
    kill = call(at, lambda runner: os.kill(os.getpid(), signum))
    with pytest.raises(Interrupted, match=rf'{signum.name}: stopped after iteration {at + 1}, .*iter_{at + 1}\.pth'):
        make_runner('stopped', by_epoch=by_epoch, hooks=[kill]).train()
    assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == before
    make_runner('stopped', by_epoch=by_epoch, resume=True).train()
    assert_same_training(tmp_path / 'whole' / last, tmp_path / 'stopped' / last)


def test_in_a_validation_the_run_stops_at_once_and_validates_again(make_runner, tmp_path):
    runner = make_runner()
    process = runner.val_loop.evaluator.metrics[0].process
    seen = []

    def kill(*args):
        seen.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        process(*args)

    runner.val_loop.evaluator.metrics[0].process = kill
    with pytest.raises(Interrupted, match='SIGTERM: stopped after iteration 3'):
        runner.train()
    assert len(seen) == 1
    make_runner(resume=True, scores=[9, 1, 1, 1]).train()
    assert (tmp_path / 'run' / 'best_acc_iter_3.pth').exists()


def test_a_second_signal_stops_at_once(make_runner, call):
    def twice(runner):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make_runner(hooks=[call(1, twice)]).train()


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='no sigwaitinfo here')
@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_workers_go_on_at_signals_from_others_and_end_by_the_one_that_started_them(signum):
    loader = DataLoader(range(4), num_workers=1, prefetch_factor=1, worker_init_fn=partial(start_worker, None))
    batches = iter(loader)
    assert int(next(batches)) == 0
    (worker,) = batches._workers
    subprocess.run(['kill', f'-{int(signum)}', str(worker.pid)], check=True)
    assert [int(batch) for batch in batches] == [1, 2, 3]

    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0
