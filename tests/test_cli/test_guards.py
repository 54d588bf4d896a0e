"""What every training gets without asking, through the command."""

import json
import os
import re
import shutil
import socket
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import CheckpointHook

from msvit_mm.checkpoints import load_checkpoint_safely
from msvit_mm.cli.guards import GUARDS, LOCK, LockedError, add_guards, end_in_one_line, sole_training
from msvit_mm.engine import Interrupted, RandomStateHook, SafeCheckpointHook


def test_guards_are_added_once_and_keep_the_settings():
    hooks = [RandomStateHook(), CheckpointHook(interval=7, max_keep_ckpts=2)]
    runner = SimpleNamespace(hooks=hooks, register_hook=hooks.append)
    for _ in range(2):
        add_guards(runner)
    assert sorted(type(hook).__name__ for hook in hooks) == sorted(
        ['SafeCheckpointHook', *(guard.__name__ for guard in GUARDS)]
    )
    (safe,) = [hook for hook in hooks if isinstance(hook, SafeCheckpointHook)]
    assert (safe.interval, safe.max_keep_ckpts) == (7, 2)


def test_the_written_config_is_the_users(trained):
    text = (trained / 'toy_config.py').read_text()
    assert "'CheckpointHook'" in text and 'SafeCheckpointHook' not in text


def test_nothing_to_resume_never_resumes_load_from(run, trained, toy_config, tmp_path):
    options = ('--cfg-options', f'load_from={trained / "iter_2.pth"}')
    (tmp_path / 'last_checkpoint').write_text(str(trained / 'iter_2.pth'))
    printed = run('train', toy_config, '--work-dir', tmp_path, '--resume', *options)
    assert f'no checkpoint in {tmp_path}, starting a new run from the weights of {trained}' in printed
    assert 'resumed epoch' not in printed
    assert load_checkpoint_safely(tmp_path / 'iter_2.pth')['meta']['iter'] == 2


def test_resume_in_the_config_takes_the_same_road(run, trained, toy_config, tmp_path):
    shutil.copy(trained / 'iter_2.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text('')
    options = ('resume=True', 'train_cfg.max_iters=4')
    printed = run('train', toy_config, '--work-dir', tmp_path, '--cfg-options', *options)
    assert 'resumed epoch: 0, iter: 2' in printed
    assert (tmp_path / 'iter_4.pth').exists()


def test_a_bad_loss_ends_in_one_line(fail, toy_config, tmp_path):
    message = fail('train', toy_config, '--work-dir', tmp_path, '--cfg-options', 'optim_wrapper.optimizer.lr=inf')
    assert 'iteration 2: wanted finite' in message and 'no checkpoint has been saved before' in message
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('command', ['test', 'train'])
def test_bad_weights_are_refused(fail, trained, toy_config, tmp_path, command):
    checkpoint = load_checkpoint_safely(trained / 'iter_2.pth')
    checkpoint['state_dict']['decode_head.conv_seg.bias'][0] = torch.nan
    torch.save(checkpoint, tmp_path / 'bad.pth')
    options = ('--resume', tmp_path / 'bad.pth') if command == 'train' else (tmp_path / 'bad.pth',)
    message = fail(command, toy_config, *options, '--work-dir', tmp_path / 'new')
    assert 'wanted finite numbers, got NaN or infinity' in message and 'decode_head.conv_seg.bias' in message


def test_a_held_lock_names_its_holder_and_a_stale_one_is_taken(tmp_path):
    with sole_training(tmp_path, 'none'):
        holder = json.loads((tmp_path / LOCK).read_text())
        assert (holder['pid'], holder['host']) == (os.getpid(), socket.gethostname())
        child = os.fork()  # locks are of a process: another one meets them
        if not child:
            try:
                with sole_training(tmp_path, 'none'):
                    os._exit(0)
            except LockedError as error:
                os._exit(7 if f'process {os.getppid()} on {socket.gethostname()}' in str(error) else 8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert (tmp_path / LOCK).read_text() == ''
    recycled = dict(pid=os.getppid(), host=socket.gethostname(), since='', started='1')
    for stale in (
        json.dumps(recycled),
        json.dumps(dict(pid=2**22 + 1, host=socket.gethostname(), since='')),
        'no JSON',
        '[1]',
        '{}',
    ):
        (tmp_path / LOCK).write_text(stale)
        with sole_training(tmp_path, 'none'):
            assert json.loads((tmp_path / LOCK).read_text())['pid'] == os.getpid()


def test_without_locks_the_named_process_is_asked(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr('msvit_mm.cli.guards.fcntl.flock', fail)
    for pid, host, free in (
        (os.getppid(), socket.gethostname(), False),
        (2**22 + 1, socket.gethostname(), True),
        (1, 'elsewhere', False),
    ):
        (tmp_path / LOCK).write_text(json.dumps(dict(pid=pid, host=host, since='now')))
        if free:
            with sole_training(tmp_path, 'none'):
                pass
        else:
            with pytest.raises(LockedError, match=f'process {pid} on {host}'), sole_training(tmp_path, 'none'):
                pass


def test_only_the_first_process_of_a_launcher_locks(tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    with sole_training(tmp_path / 'none', 'pytorch'):
        assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize(
    'error, code',
    [
        (Interrupted('SIGTERM: stopped', 15), 143),
        (KeyboardInterrupt(), 'error: interrupted'),
        (OSError(28, 'No space left on device', 'iter_2.pth'), 'error: No space left on device: iter_2.pth'),
    ],
)
def test_one_line(error, code):
    with pytest.raises(SystemExit) as exit_info, end_in_one_line():
        raise error
    got = exit_info.value.code
    assert got == code if isinstance(code, int) else got.startswith(code) and '\n' not in got


@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_broken_file_ends_training_and_testing_in_one_line(fail, trained, toy_config, toy_data, tmp_path, workers):
    data = tmp_path / 'data'
    shutil.copytree(toy_data, data)
    (data / 'labels' / '2.png').write_bytes((data / 'labels' / '2.png').read_bytes()[:60])
    options = ['--cfg-options', *(f'{x}_dataloader.dataset.data_root={data}' for x in ('train', 'val', 'test'))]
    options += [f'{x}_dataloader.num_workers={workers}' for x in ('train', 'test')]
    calls = [('train', toy_config), ('test', toy_config, trained / 'iter_2.pth')]
    for call in calls:
        message = fail(*call, '--work-dir', tmp_path / 'w', *options)
        assert re.search(r"data: wanted to read '.*2\.png' and '.*2\.png', got \w+: .*", message)
