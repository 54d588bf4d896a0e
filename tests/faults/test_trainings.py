"""Trainings that are killed, stopped, run out of disk or meet another one: nothing is lost, nothing silent."""

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msvit_mm.checkpoints import find_resumable, load_checkpoint_safely
from msvit_mm.engine import storage

from .conftest import SHIPPED, saved_iteration

pytestmark = pytest.mark.slow
KILLS, SEED = int(os.environ.get('FAULTS_KILLS', 20)), int(os.environ.get('FAULTS_SEED', 0))
ROOT = Path(__file__).parents[2]
LAST = 'iter_24.pth'


def names(folder):
    return sorted(path.name for path in folder.glob('*.p*') if path.suffix in ('.pth', '.part'))


def check_survivors(folder, saved_before):
    """Every checkpoint under a final name is complete, and once there was one there always is."""
    found = list(folder.glob('*.pth'))
    for path in found:
        load_checkpoint_safely(path)
    if saved_before:
        assert find_resumable(folder) is not None


def test_random_kills(start, whole, differences, tmp_path):
    """Killed a random while after a checkpoint, or after the start, and resumed: the uninterrupted run."""
    folder, seconds = whole()
    generator = random.Random(SEED)
    survived = 0
    for kill in range(KILLS):
        work_dir = tmp_path / f'{kill}'
        saved = kill_by_chance(start, work_dir, 3 * generator.randrange(8), generator.uniform(0, seconds / 4))
        check_survivors(work_dir, saved > 0)
        survived += saved > 0
        code, output = start(work_dir, resume=True).end()
        assert code == 0, output
        assert differences(folder / LAST, work_dir / LAST) == []
        assert [name for name in names(work_dir) if name.startswith('iter')] == [LAST]
        best = [name for name in names(work_dir) if name.startswith('best')]
        assert set(best) >= {name for name in names(folder) if name.startswith('best')}
    print(f'{KILLS} kills, {survived} after the first checkpoint')


def test_the_shipped_config_killed_again_and_again(start, whole, differences, tmp_path):
    """One run, killed at random moments and resumed each time, with batches, data and workers as shipped."""
    folder, seconds = whole(SHIPPED)
    generator = random.Random(SEED)
    work_dir, moments = tmp_path / 'run', []
    while len(moments) < KILLS:
        saved = saved_iteration(work_dir)
        assert saved < 60, f'ended after {len(moments)} of {KILLS} kills: {moments}'
        after = min(saved + generator.randrange(4), 59)
        moments.append(kill_by_chance(start, work_dir, after, generator.uniform(0, seconds / 60), length=SHIPPED))
        check_survivors(work_dir, moments[-1] > 0)
    code, output = start(work_dir, length=SHIPPED, resume=True).end()
    assert code == 0, output
    assert differences(folder / 'iter_60.pth', work_dir / 'iter_60.pth') == []
    assert names(folder) == names(work_dir)
    print(f'{KILLS} kills, with these iterations saved: {moments}')


def kill_by_chance(start, work_dir, after, pause, **words):
    """Start or resume, kill it some seconds after an iteration is saved; the iteration that is saved then."""
    training = start(work_dir, resume=(work_dir / 'last_checkpoint').exists(), **words)
    training.wait_for(lambda: saved_iteration(work_dir) >= after)
    training.process.join(pause)
    training.send(signal.SIGKILL, whole_group=True)
    training.process.join()
    return saved_iteration(work_dir)


def test_killed_again_and_again(start, whole, differences, tmp_path):
    folder, _ = whole()
    work_dir = tmp_path / 'run'
    for step in range(6, 22, 5):
        training = start(work_dir, resume=step > 6)
        training.wait_for(lambda step=step: saved_iteration(work_dir) >= step // 3 * 3)
        training.send(signal.SIGKILL, whole_group=True)
        training.process.join()
        check_survivors(work_dir, True)
    assert start(work_dir, resume=True).end()[0] == 0
    assert differences(folder / LAST, work_dir / LAST) == []


def test_kills_during_saves(start, tmp_path):
    """Each moment of a save: before the write, half of it, before the renaming, after it, before the removal."""
    code = textwrap.dedent("""
        import os, sys
        moment, target = int(sys.argv[1]), 'iter_6.pth'
        import builtins, msvit_mm.engine.storage as storage, msvit_mm.engine.checkpoint as checkpoint
        die = lambda: os._exit(9)
        put, replace, fsync = storage.AtomicLocalBackend.put, os.replace, os.fsync
        saving = []
        def new_put(self, obj, path):
            if str(path).endswith(target):
                saving.append(1)
                if moment == 0: die()
                if moment == 1:
                    open(f'{path}.part', 'wb').write(obj[: len(obj) // 2]); die()
            put(self, obj, path)
        def new_replace(source, target):
            if saving and moment == 2: die()
            replace(source, target)
            if saving and moment == 3: die()
        storage.AtomicLocalBackend.put = new_put
        os.replace = new_replace
        remove = checkpoint.SafeCheckpointHook._remove
        def new_remove(self, name):
            if saving and moment == 4: die()
            remove(self, name)
        checkpoint.SafeCheckpointHook._remove = new_remove
        from msvit_cli import main
        main(sys.argv[2:])
    """)
    config = ROOT / 'tests' / 'test_cli' / 'toy_config.py'
    data = _toy_data(tmp_path)
    options = [
        'train_cfg.max_iters=9',
        'train_cfg.val_interval=9',
        'default_hooks.checkpoint.interval=3',
        'default_hooks.checkpoint.max_keep_ckpts=1',
    ]
    environment = dict(os.environ, TOY_DATA=str(data), CUDA_VISIBLE_DEVICES='-1', PYTHONPATH=str(ROOT))
    for moment in range(5):
        work_dir = tmp_path / f'{moment}'
        command = [sys.executable, '-c', code, str(moment), 'train', str(config), '--work-dir', str(work_dir)]
        command += ['--cfg-options', *options]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
        assert process.returncode == 9, process.stderr
        survivor = find_resumable(work_dir)
        assert survivor is not None and survivor.name in ('iter_3.pth', 'iter_6.pth'), names(work_dir)
        assert (survivor.name == 'iter_3.pth') == (moment < 4), (moment, survivor)


def _toy_data(folder):
    for kind in ('images', 'labels'):
        (folder / 'data' / kind).mkdir(parents=True, exist_ok=True)
        for index in range(4):
            shape = (32, 48, 3) if kind == 'images' else (32, 48)
            image = np.random.default_rng(index).integers(0, 3, shape).astype(np.uint8)
            Image.fromarray(image).save(folder / 'data' / kind / f'{index}.png')
    return folder / 'data'


@pytest.mark.parametrize('signum, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_with_a_checkpoint_and_one_line(start, whole, differences, tmp_path, signum, code):
    folder, _ = whole()
    work_dir = tmp_path / 'run'
    training = start(work_dir)
    training.wait_for(lambda: saved_iteration(work_dir) >= 3)
    training.send(signum, whole_group=True)  # as terminals and clusters send it, to the workers, too
    got, output = training.end()
    assert got == code, output
    assert 'Traceback' not in output
    assert f'{signum.name}: stopped after iteration' in output.splitlines()[-1]
    code, output = start(work_dir, resume=True).end()
    assert code == 0, output
    assert differences(folder / LAST, work_dir / LAST) == []


def test_two_trainings_in_one_folder(start, tmp_path):
    work_dir = tmp_path / 'run'
    first = start(work_dir)
    first.wait_for(lambda: saved_iteration(work_dir) >= 3)
    first.send(signal.SIGSTOP, whole_group=True)  # lest it ends before the second one has begun
    code, output = start(work_dir).end()
    assert code == 1
    assert f'process {first.process.pid} on' in output.splitlines()[-1]
    first.send(signal.SIGCONT, whole_group=True)
    assert first.process.is_alive()
    first.send(signal.SIGKILL)  # leaves its data loader's workers behind for a moment
    first.process.join()
    code, output = start(work_dir, resume=True).end()
    assert code == 0, output


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 20 MB, for two or three checkpoints."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    made = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=20m', 'tmpfs', str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip('a small file system cannot be mounted here')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


def test_full_disk(start, small_disk, tmp_path):
    work_dir = small_disk / 'run'
    code, output = start(work_dir, 'default_hooks.checkpoint.max_keep_ckpts=-1').end()
    assert code == 1, output
    assert 'No space left on device' in output.splitlines()[-1], output[-2000:]
    assert not list(work_dir.glob('*.part'))
    check_survivors(work_dir, True)


def test_write_fails(start, tmp_path, monkeypatch):
    """A disk that is full from the third checkpoint on, where no small file system can be mounted."""
    opened = open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            raise OSError(28, 'No space left on device')

    def limited(path, *args):
        return Full(opened(path, *args)) if 'iter_9' in str(path) else opened(path, *args)

    monkeypatch.setattr(storage, 'open', limited, raising=False)
    work_dir = tmp_path / 'run'
    code, output = start(work_dir).end()
    assert code == 1, output
    assert 'error: No space left on device' in output.splitlines()[-1]
    assert 'Traceback' not in output
    assert [name for name in names(work_dir) if not name.startswith('best')] == ['iter_8.pth']
    monkeypatch.setattr(storage, 'open', opened)
    code, output = start(work_dir, resume=True).end()
    assert code == 0, output


def test_another_runs_folder_survives(start, whole, tmp_path):
    folder, _ = whole()
    copy = tmp_path / 'copy'
    shutil.copytree(folder, copy)
    before = {path.name: path.read_bytes() for path in copy.glob('*.pth')}
    other = tmp_path / 'other'
    options = ('train_cfg.max_iters=30', f'load_from={copy / LAST}', 'resume=True')
    code, output = start(other, *options).end()
    assert code == 0, output
    assert {path.name: path.read_bytes() for path in copy.glob('*.pth')} == before
    assert 'iter_30.pth' in names(other)
