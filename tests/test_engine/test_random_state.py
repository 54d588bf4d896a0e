"""A run that was stopped and resumed equals the uninterrupted one bit for bit."""

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader

from msvit_mm.engine.random_state import get_random_states, place_samples, set_random_states


def stop(runner):
    raise KeyboardInterrupt


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize('at', [4, 9])
def test_killed_and_resumed_iterations(make_runner, call, tmp_path, assert_same_training, workers, at):
    make_runner('whole', workers=workers).train()
    with pytest.raises(KeyboardInterrupt):
        make_runner('stopped', workers=workers, hooks=[call(at, stop)]).train()
    torch.rand(7), random.random(), np.random.rand()
    make_runner('stopped', workers=workers, resume=True, randomness=dict(seed=5)).train()
    assert_same_training(tmp_path / 'whole' / 'iter_12.pth', tmp_path / 'stopped' / 'iter_12.pth')


def test_killed_and_resumed_epochs(make_runner, call, tmp_path, assert_same_training):
    make_runner('whole', by_epoch=True).train()
    with pytest.raises(KeyboardInterrupt):
        make_runner('stopped', by_epoch=True, hooks=[call(13, stop)]).train()
    make_runner('stopped', by_epoch=True, resume=True).train()
    assert_same_training(tmp_path / 'whole' / 'epoch_4.pth', tmp_path / 'stopped' / 'epoch_4.pth')


def test_the_number_of_workers_changes_nothing(make_runner, tmp_path, assert_same_training):
    for workers in (0, 3):
        make_runner(f'{workers}', workers=workers).train()
    assert_same_training(tmp_path / '0' / 'iter_12.pth', tmp_path / '3' / 'iter_12.pth')


@pytest.mark.slow
def test_validation_does_not_move_the_training(make_runner, tmp_path, assert_same_training):
    make_runner('often').train()
    make_runner('once', train_cfg=dict(by_epoch=False, max_iters=12, val_interval=12)).train()
    assert_same_training(tmp_path / 'often' / 'iter_12.pth', tmp_path / 'once' / 'iter_12.pth')


@pytest.mark.slow
def test_chance_is_there(make_runner, tmp_path, assert_same_training):
    """The law above is not empty: another seed gives another run."""
    make_runner('one').train()
    make_runner('other', randomness=dict(seed=6)).train()
    with pytest.raises(AssertionError):
        assert_same_training(tmp_path / 'one' / 'iter_12.pth', tmp_path / 'other' / 'iter_12.pth')


def test_weights_alone_start_from_the_seed(make_runner, tmp_path):
    make_runner('first').train()
    runner = make_runner('second', load_from=str(tmp_path / 'first' / 'iter_12.pth'))
    runner.train()
    assert runner.iter == 12


def test_states_are_passive_and_complete(tmp_path):
    random.gauss(0, 1), np.random.randn()  # each leaves half a pair behind
    torch.save(get_random_states(), tmp_path / 'states.pth')
    drawn = random.gauss(0, 1), np.random.randn(), float(torch.rand(()))
    set_random_states(torch.load(tmp_path / 'states.pth', weights_only=True))
    assert drawn == (random.gauss(0, 1), np.random.randn(), float(torch.rand(())))


def test_a_placed_loader_is_what_it_was(make_runner):
    class Data(torch.utils.data.Dataset):
        pipeline = 'first'

        def __len__(self):
            return 5

        def __getitem__(self, index):
            return index

    data = Data()
    loader = DataLoader(data, sampler=DefaultSampler(data, seed=3), batch_size=2)
    batches = [batch.tolist() for batch in loader]
    state = torch.get_rng_state()
    assert place_samples(loader, 0, 0) is place_samples(loader, 0, 0) is loader.sampler
    assert [batch.tolist() for batch in loader] == batches
    loader.dataset.pipeline = 'second'
    assert data.pipeline == loader.dataset.pipeline == 'second'
    assert torch.equal(torch.get_rng_state(), state)
    assert len(loader.dataset) == 5 and loader.dataset[1] == 1
