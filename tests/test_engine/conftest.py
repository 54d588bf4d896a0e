import random
import typing

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from msvit_mm.cli.guards import add_guards
from msvit_mm.engine import SanityCheckHook


class ChanceModel(BaseModel):
    """Learns from data and from all three sources of chance."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.loss = None

    def forward(self, inputs, data_samples=None, mode='loss'):
        out = torch.nn.functional.dropout(self.layer(torch.stack(inputs)), 0.5, self.training)
        if mode != 'loss':
            return [dict(score=float(out.sum())) for _ in inputs]
        noise = random.random() + np.random.rand()
        return dict(loss_toy=self.loss if self.loss is not None else (out - noise).square().mean())


class ChanceDataset(torch.utils.data.Dataset):
    """Samples that torch, numpy and python change on every reading."""

    metainfo: typing.ClassVar = dict(classes=('a',))

    def __len__(self):
        return 10

    def __getitem__(self, index):
        drawn = torch.rand(3) + float(np.random.rand()) + random.random()
        return dict(inputs=drawn + index)


class StepMetric(BaseMetric):
    """Scores by number of validation, to choose which is best."""

    def __init__(self, scores):
        super().__init__()
        self.scores = iter(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        random.random(), np.random.rand(), torch.rand(())  # a validation that draws
        return dict(acc=next(self.scores))


class Call(Hook):
    """Calls a function before an iteration."""

    priority = 'LOWEST'

    def __init__(self, at, function):
        self.at, self.function = at, function

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            self.function(runner)


@pytest.fixture
def make_runner(tmp_path):
    """A guarded toy runner of 12 iterations, checkpoint and validation after every third."""
    count = iter(range(1000))

    def make(
        work_dir='run', hooks=(), checkpoint=None, by_epoch=False, workers=0, scores=range(1, 100), batch=2, **options
    ):
        torch.manual_seed(0)
        steps = dict(by_epoch=True, max_epochs=4) if by_epoch else dict(by_epoch=False, max_iters=12, val_interval=3)
        saved = dict(type='CheckpointHook', by_epoch=by_epoch, interval=1 if by_epoch else 3, save_best='acc')
        sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
        loading = dict(dataset=ChanceDataset(), collate_fn=dict(type='pseudo_collate'))
        kwargs = dict(
            model=ChanceModel(),
            work_dir=str(tmp_path / work_dir),
            train_dataloader=dict(loading, sampler=sampler, batch_size=batch, num_workers=workers),
            val_dataloader=dict(loading, sampler=dict(type='DefaultSampler', shuffle=False), batch_size=5),
            train_cfg=steps,
            val_cfg={},
            val_evaluator=[StepMetric(scores)],
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
            param_scheduler=dict(type='PolyLR', power=1.0, begin=0, end=12, by_epoch=False),
            default_hooks=dict(logger=None, timer=None, checkpoint=saved | (checkpoint or {})),
            custom_hooks=list(hooks),
            experiment_name=f'{tmp_path.name}-{next(count)}',
            log_level='WARNING',
            randomness=dict(seed=5),
        )
        runner = Runner(**kwargs | options)
        add_guards(runner)
        runner.hooks[:] = [hook for hook in runner.hooks if not isinstance(hook, SanityCheckHook)]  # scores are counted
        return runner

    return make


@pytest.fixture
def call():
    return Call


def flatten(value, name=''):
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [item for key, child in pairs for item in flatten(child, f'{name}.{key}')]
    return [(name, value)]


@pytest.fixture
def assert_same_training():
    """Two checkpoints hold the same weights, optimizer, schedules and random states, bit for bit."""

    def check(first, second):
        states = [torch.load(path, weights_only=False) for path in (first, second)]
        parts = ('state_dict', 'optimizer', 'param_schedulers', 'random_states')
        one, other = ([item for part in parts for item in flatten(state[part], part)] for state in states)
        assert [name for name, _ in one] == [name for name, _ in other]
        for (name, x), (_, y) in zip(one, other, strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, name
        assert states[0]['meta']['iter'] == states[1]['meta']['iter']

    return check
