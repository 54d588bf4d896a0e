from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.nn.parallel import DataParallel

from msvit_mm.engine import GateScheduleHook

MAX_ITERS = 20


class ToyModel(BaseModel):
    """One weight, and what the hook moves."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.gate_loss = SimpleNamespace(weight=None)
        self.gate_phase = None

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=self.scale * torch.stack(inputs).mean())


class Record(Hook):
    """Notes what each iteration runs under, and breaks off before iteration ``stop``."""

    def __init__(self, stop=None):
        self.stop = stop
        self.seen = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.stop:
            raise KeyboardInterrupt
        self.seen[runner.iter] = (runner.model.gate_phase, runner.model.gate_loss.weight)


def train(work_dir, resume=False, stop=None, max_iters=MAX_ITERS, weights=(0.2, 3.0)):
    record = Record(stop)
    runner = Runner(
        model=ToyModel(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(1))] * 4,
            sampler=dict(type='InfiniteSampler'),
            batch_size=2,
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=max_iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(logger=None, timer=None, checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=6)),
        custom_hooks=[record, dict(type='GateScheduleHook', warmup=0.3, weights=weights, ramp=(0.4, 0.9))],
        experiment_name=f'{work_dir}-{resume}-{max_iters}'.replace('/', '-'),
        log_level='WARNING',
        resume=resume,
    )
    if stop is None:
        runner.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    return record.seen


def test_known_values():
    hook = GateScheduleHook(warmup=0.2, weights=(0.5, 2.5), ramp=(0.25, 0.75))
    schedule = [hook.phase_and_weight(iteration, 100) for iteration in (0, 19, 20, 40, 60, 80, 99)]
    assert [phase for phase, _ in schedule] == ['warmup', 'warmup', 'learn', 'learn', 'learn', 'learn', 'learn']
    assert [weight for _, weight in schedule] == pytest.approx([0.5, 0.5, 0.5, 0.5, 1.5, 2.5, 2.5])


@pytest.mark.parametrize('warmup', [0, 0.4])
def test_the_weight_never_falls_and_the_gate_never_rests_again(warmup):
    hook = GateScheduleHook(warmup=warmup, weights=(0.2, 3.0))
    phases, weights = zip(*(hook.phase_and_weight(i, 1000) for i in range(1000)), strict=True)
    assert list(phases) == ['warmup'] * int(1000 * warmup) + ['learn'] * (1000 - int(1000 * warmup))
    assert list(weights) == sorted(weights)
    assert (weights[0], weights[-1]) == (0.2, 3.0)
    assert max(b - a for a, b in pairwise(weights)) < 0.02


def test_every_iteration_of_a_run_is_scheduled(tmp_path):
    hook = GateScheduleHook(warmup=0.3, weights=(0.2, 3.0), ramp=(0.4, 0.9))
    seen = train(tmp_path / 'whole')
    assert seen == {i: hook.phase_and_weight(i, MAX_ITERS) for i in range(MAX_ITERS)}
    assert len({phase for phase, _ in seen.values()}) == 2
    assert len({weight for _, weight in seen.values()}) > 5


@pytest.mark.parametrize('stop', [6, 15])
def test_a_resumed_run_goes_on_as_if_never_stopped(tmp_path, stop):
    whole = train(tmp_path / 'whole')
    before = train(tmp_path / 'stopped', stop=stop)
    after = train(tmp_path / 'stopped', resume=True)
    assert min(after) == stop // 6 * 6
    assert before | after == whole
    assert all(before[i] == after[i] for i in before if i in after)


@pytest.mark.parametrize('warmup', [0.1, 0.3, 0.4, 1 / 3, 0.7])
@pytest.mark.parametrize('max_iters', [7, 20, 1000])
def test_first_learning_iteration_is_the_first_that_learns(warmup, max_iters):
    hook = GateScheduleHook(warmup=warmup)
    phases = [hook.phase_and_weight(i, max_iters)[0] for i in range(max_iters)]
    assert phases.index('learn') == hook.first_learning_iteration(max_iters)


@pytest.mark.parametrize(
    ('learnable', 'iteration', 'said'), [(True, 0, True), (True, 299, True), (True, 300, False), (False, 0, False)]
)
def test_a_resting_gate_is_said_once(learnable, iteration, said):
    lines = []
    model = SimpleNamespace(backbone=SimpleNamespace(gate=SimpleNamespace(learnable=learnable)))
    logger = SimpleNamespace(info=lines.append)
    hub = SimpleNamespace(runtime_info={}, update_info=lambda key, value: None)
    runner = SimpleNamespace(model=model, iter=iteration, max_iters=1000, logger=logger, message_hub=hub)
    GateScheduleHook(warmup=0.3).before_train(runner)
    assert len(lines) == said
    assert all('the gate rests until iteration 300 of 1000' in line for line in lines)


def test_a_longer_run_never_sends_the_gate_back(tmp_path):
    hook = GateScheduleHook(warmup=0.3, weights=(0.2, 3.0), ramp=(0.4, 0.9))
    reached = train(tmp_path / 'run')[MAX_ITERS - 1]
    after = train(tmp_path / 'run', resume=True, max_iters=100)
    assert hook.phase_and_weight(20, 100) == ('warmup', 0.2)
    assert after[20] == reached == ('learn', pytest.approx(3.0))
    assert set(after.values()) == {reached}
    train(tmp_path / 'again', stop=12)
    ahead = train(tmp_path / 'again', resume=True, max_iters=40)
    assert ahead[12] == hook.phase_and_weight(11, MAX_ITERS)
    assert ahead[39] == hook.phase_and_weight(39, 40)
    assert sorted(weight for _, weight in ahead.values()) == [weight for _, weight in ahead.values()]
    beyond = train(tmp_path / 'again', resume=True, max_iters=41)
    assert {phase for phase, _ in beyond.values()} == {'learn'}


def test_a_weight_that_falls_never_rises_again_in_a_longer_run(tmp_path):
    train(tmp_path / 'run', weights=(3.0, 0.2))
    after = train(tmp_path / 'run', resume=True, max_iters=100, weights=(3.0, 0.2))
    assert [weight for _, weight in after.values()] == pytest.approx([0.2] * len(after)) and after


def test_wrapped_models_and_models_without_gate_loss():
    model = ToyModel()
    model.gate_loss = None
    runner = SimpleNamespace(model=model, iter=0, max_iters=10)
    GateScheduleHook(warmup=0.5).before_train_iter(runner, 0)
    assert model.gate_phase == 'warmup'
    runner = SimpleNamespace(model=DataParallel(model), iter=9, max_iters=10)
    GateScheduleHook(warmup=0.5).before_train_iter(runner, 0)
    assert model.gate_phase == 'learn'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(warmup=1), r'warmup must lie in \[0, 1\), got 1'),
        (dict(warmup=-0.1), r'warmup must lie in \[0, 1\), got -0.1'),
        (dict(ramp=(0.9, 0.4)), r'ramp must be \(begin, end\) with 0 <= begin < end <= 1, got \(0.9, 0.4\)'),
        (dict(ramp=(0.5, 1.1)), r'ramp must be .* got \(0.5, 1.1\)'),
        (dict(ramp=(0.5, 0.5)), r'ramp must be .* got \(0.5, 0.5\)'),
        (dict(weights=(1, 2, 3)), r'weights must be \(first, last\), neither negative, got \(1, 2, 3\)'),
        (dict(weights=(-1, 3)), r'weights must be \(first, last\), neither negative, got \(-1, 3\)'),
    ],
    ids=str,
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        GateScheduleHook(**options)
