"""A gate that is fitted when a training begins: it knows boundaries, and the training is otherwise the same."""

import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import DATASETS, MODELS, init_default_scope

from msvit_mm.checkpoints import load_checkpoint_safely
from msvit_mm.cli.config import load_config
from msvit_mm.cli.guards import add_guards
from msvit_mm.cli.images import load_split
from msvit_mm.cli.models import build_runner
from msvit_mm.engine import GateFitHook
from msvit_mm.engine.calibration import group_windows, mean_costs, record_gate
from msvit_mm.engine.fitting import judge_gate

GATE = 'backbone.gate.'


class Witness(Hook):
    """What the first iteration finds."""

    priority = 'LOWEST'

    def before_train(self, runner):
        model = runner.model
        self.state = {name: x.clone() for name, x in model.state_dict().items()}
        self.random, self.gradients = torch.get_rng_state(), [x.grad for x in model.parameters()]
        self.learnable, self.training = model.backbone.gate.learnable, model.training
        model.eval()
        images = [record_gate(model, batch, with_decoder=False) for batch in load_split(runner.cfg, 'train')]
        self.ratio = mean_costs(model.backbone, group_windows(images), 0.0)['coarse_ratio']
        judged = load_split(runner.cfg, 'train', with_labels=True)
        self.auc = judge_gate(model, judged, ['boundary'], 0.6)['boundary']
        model.train()


@pytest.fixture
def train(tmp_path):
    def call(name, *hooks, **options):
        words = dict(num_workers=0, persistent_workers=False)
        few = {f'{split}_dataloader.{key}': value for split in ('train', 'val') for key, value in words.items()}
        few |= {
            'train_dataloader.batch_size': 2,
            'train_dataloader.dataset.num_images': 24,
            'val_dataloader.dataset.num_images': 2,
            'model.gate_loss.coarse_ratio': 0.6,
            'train_cfg.max_iters': 2,
            'train_cfg.val_interval': 2,
            'default_hooks.checkpoint.interval': 1,
            'default_hooks.checkpoint.max_keep_ckpts': 9,
            'custom_hooks': [dict(type='GateScheduleHook', warmup=0.0), *hooks],
            'log_level': 'WARNING',
            'randomness.seed': 0,
        }
        runner = build_runner(load_config('msvit_upernet_scenes', few | options, str(tmp_path / name)))
        add_guards(runner)
        witness = Witness()
        runner.register_hook(witness)
        runner.train()
        return runner, witness

    return call


FIT = dict(type='GateFitHook', steps=25, num_images=24)
EDGES = dict(_delete_=True, type='EdgeGate', coarse_ratio=0.5)


def test_a_training_begins_with_a_gate_that_knows_boundaries(train, tmp_path):
    plain, fitted = train('plain')[1], train('fitted', FIT)[1]
    moved = {name for name, x in plain.state.items() if not torch.equal(x, fitted.state[name])}
    assert moved and all(name.startswith(GATE) for name in moved)
    assert plain.auc < 0.8 < fitted.auc
    assert fitted.ratio == pytest.approx(0.6, abs=0.01)
    assert fitted.training and fitted.learnable and fitted.gradients == [None] * len(fitted.gradients)
    assert torch.equal(plain.random, fitted.random)

    # a resumed run goes on with the gate that it has
    end = load_checkpoint_safely(tmp_path / 'fitted' / 'iter_2.pth')['state_dict']
    train('again', FIT, load_from=str(tmp_path / 'fitted' / 'iter_1.pth'), resume=True)
    resumed = load_checkpoint_safely(tmp_path / 'again' / 'iter_2.pth')['state_dict']
    assert all(torch.equal(resumed[name], x) for name, x in end.items())


def test_frozen_gates_and_averaged_ones_are_fitted(train):
    few = FIT | dict(steps=1, coarse_ratio=0.6)
    frozen = {'model.backbone.gate.frozen': True, 'model.gate_loss': None}
    runner, witness = train('frozen', few, dict(type='EMAHook'), **frozen)
    (ema,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    averages = ema.ema_model.module.state_dict()
    assert not witness.learnable and witness.ratio == pytest.approx(0.6, abs=0.05)
    assert all(torch.equal(averages[name], x) for name, x in witness.state.items() if name.startswith(GATE))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model.backbone.gate': EDGES, 'model.gate_loss': None}, 'wanted one with weights to fit .* got EdgeGate'),
        ({'model.gate_loss': None}, 'wanted coarse_ratio, or a gate or utility loss that says one, got neither'),
        ({'test_dataloader': None, 'test_cfg': None, 'test_evaluator': None}, 'wanted a test_dataloader, .* got none'),
    ],
)
def test_what_cannot_be_fitted_ends_the_start(train, options, message):
    with pytest.raises(ValueError, match=message):
        train('run', FIT, **options)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(targets=['edges']), r"targets must be some of boundary, .*, got \['edges'\]"),
        (dict(targets=[]), 'targets must be some of'),
        (dict(coarse_ratio=1), r'coarse_ratio must lie in \(0, 1\), got 1'),
        (dict(steps=0), r'steps must lie in \[1, inf\), got 0'),
        (dict(scales=(1.0, 0.0)), r'scales\[1\] must lie in \(0, inf\), got 0.0'),
    ],
    ids=str,
)
def test_words(words, message):
    with pytest.raises(ValueError, match=message):
        GateFitHook(**words)


def fit_one_rank(rank, folder):
    """One process of two, whose gates begin as different ones."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    init_default_scope('mmseg')
    torch.manual_seed(rank)
    cfg = load_config('msvit_upernet_scenes', {'test_dataloader.dataset.num_images': 8})
    model = MODELS.build(cfg.model)
    loader = SimpleNamespace(dataset=DATASETS.build(cfg.test_dataloader.dataset), num_workers=0)
    runner = MagicMock(iter=0, model=model, cfg=cfg, hooks=[], train_loop=SimpleNamespace(dataloader=loader))
    GateFitHook(steps=2, batch_size=2, num_images=8).before_train(runner)
    torch.save(model.state_dict(), f'{folder}/{rank}.pt')


@pytest.mark.slow
def test_of_two_processes_the_first_fits_for_both(run_in_two_processes, tmp_path):
    run_in_two_processes(__file__)
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    same = {name for name in first if torch.equal(first[name], second[name])}
    assert {name for name in first if name.startswith(GATE)} <= same < set(first)


if __name__ == '__main__':
    fit_one_rank(int(sys.argv[1]), sys.argv[2])
