"""No file of others is removed, and the newest complete checkpoint survives every save."""

import errno
import os
from pathlib import Path

import pytest
import torch

from msvit_mm.engine.storage import AtomicLocalBackend


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def test_one_kept_checkpoint_and_the_best(make_runner, tmp_path):
    make_runner(checkpoint=dict(max_keep_ckpts=1), scores=[1, 3, 2, 2]).train()
    assert names(tmp_path / 'run') == ['best_acc_iter_6.pth', 'iter_12.pth']
    assert (tmp_path / 'run' / 'last_checkpoint').read_text() == str(tmp_path / 'run' / 'iter_12.pth')


@pytest.mark.parametrize('save_best', ['acc', ['acc', 'acc2']])
def test_during_every_save_complete_files_are_there(make_runner, tmp_path, monkeypatch, save_best):
    seen = []
    put = AtomicLocalBackend.put

    def spy(self, obj, path):
        if str(path).endswith('.pth'):
            seen.append((Path(path).name, names(tmp_path / 'run')))
        put(self, obj, path)

    monkeypatch.setattr(AtomicLocalBackend, 'put', spy)
    runner = make_runner(checkpoint=dict(max_keep_ckpts=1, save_best=save_best, rule='greater'))
    if save_best != 'acc':
        metric = runner.val_loop.evaluator.metrics[0]
        compute = metric.compute_metrics
        metric.compute_metrics = lambda results: {
            key: value for key in save_best for value in [compute(results)['acc']]
        }
    runner.train()
    later = [(name, there) for name, there in seen if name not in ('iter_3.pth', 'best_acc_iter_3.pth')]
    assert len(later) > 6
    assert all(any(other.startswith('iter_') for other in there) for _, there in later)
    bests = [there for name, there in later if name.startswith('best_acc_')]
    assert bests and all(any(other.startswith('best_acc_') for other in there) for there in bests)


def test_another_run_is_left_alone(make_runner, tmp_path):
    make_runner('a', checkpoint=dict(max_keep_ckpts=1), scores=[9, 1, 1, 1]).train()
    before = names(tmp_path / 'a')
    options = dict(load_from=str(tmp_path / 'a' / 'iter_12.pth'), resume=True)
    options['train_cfg'] = dict(by_epoch=False, max_iters=18, val_interval=3)
    make_runner('b', checkpoint=dict(max_keep_ckpts=1), scores=[2, 5, 3], **options).train()
    assert names(tmp_path / 'a') == before
    assert names(tmp_path / 'b') == ['best_acc_iter_15.pth', 'iter_18.pth']


def test_a_path_in_a_checkpoint_is_never_removed(make_runner, tmp_path):
    make_runner(scores=[1, 1, 1, 1]).train()
    precious = tmp_path / 'precious'
    precious.mkdir()
    (precious / 'file').write_text('kept')
    (tmp_path / 'run' / 'best_acc_iter_3.pth').unlink()
    (tmp_path / 'run' / 'best_acc_iter_3.pth').mkdir()
    last = tmp_path / 'run' / 'iter_6.pth'
    checkpoint = torch.load(last, weights_only=False)
    for path in (str(precious), str(precious / 'file'), '..', str(tmp_path / 'run' / 'best_acc_iter_3.pth'), 7):
        info = dict(best_ckpt=path, best_score=0, keep_ckpt_ids=['../../precious/file', '..', 3])
        checkpoint['message_hub']['runtime_info'].update(info)
        torch.save(checkpoint, last)
        options = dict(load_from=str(last), resume=True, checkpoint=dict(max_keep_ckpts=1, interval=1))
        make_runner(**options).train()
        assert (precious / 'file').read_text() == 'kept'
        assert (tmp_path / 'run' / 'best_acc_iter_3.pth').is_dir()
        torch.save(checkpoint, last)


def test_a_moved_run_keeps_its_own(make_runner, tmp_path):
    make_runner(checkpoint=dict(max_keep_ckpts=1), scores=[1, 2, 3, 4]).train()
    (tmp_path / 'run').rename(tmp_path / 'moved')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'best_acc_iter_12.pth').write_text('of somebody else')
    options = dict(load_from=str(tmp_path / 'moved' / 'iter_12.pth'), resume=True)
    options['train_cfg'] = dict(by_epoch=False, max_iters=15, val_interval=3)
    make_runner('moved', checkpoint=dict(max_keep_ckpts=1), scores=[5], **options).train()
    assert names(tmp_path / 'moved') == ['best_acc_iter_15.pth', 'iter_15.pth']
    assert names(tmp_path / 'run') == ['best_acc_iter_12.pth']


def test_a_validation_that_was_broken_off_is_made_up_for(make_runner, tmp_path, monkeypatch):
    runner = make_runner()
    monkeypatch.setattr(runner.val_loop, 'run', lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert names(tmp_path / 'run') == ['iter_3.pth']
    make_runner(resume=True, scores=[9, 1, 1, 1]).train()
    assert 'best_acc_iter_3.pth' in names(tmp_path / 'run')


def test_epochs(make_runner, tmp_path):
    make_runner(by_epoch=True, checkpoint=dict(max_keep_ckpts=2), scores=[1, 3, 2, 2]).train()
    assert names(tmp_path / 'run') == ['best_acc_epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth']


def test_a_failed_write_keeps_the_older_file(tmp_path, monkeypatch):
    backend = AtomicLocalBackend()
    path = tmp_path / 'new' / 'iter_2.pth'
    backend.put(b'first', path)

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='No space left on device.*iter_2.pth'):
        backend.put(b'second', path)
    assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [('iter_2.pth', b'first')]


def test_the_content_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda descriptor: (order.append('fsync'), fsync(descriptor)))
    monkeypatch.setattr(os, 'replace', lambda *paths: (order.append('rename'), replace(*paths)))
    AtomicLocalBackend().put(b'content', tmp_path / 'file')
    assert order == ['fsync', 'rename', 'fsync']
