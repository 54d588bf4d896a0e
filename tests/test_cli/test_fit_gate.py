"""The command that fits a gate: what it writes starts a training, and bad input ends in one line."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from msvit_mm.checkpoints import load_checkpoint_safely
from msvit_mm.checkpoints.starting import check_start
from msvit_mm.cli.config import load_config

OWN, DENSE = 'studies/transfer/from_dense_upernet_scenes', 'studies/baselines/dense_fine_upernet_scenes'
CLASSIFIER = str(Path(__file__).parents[2] / 'configs' / 'msvit_classifier_scenes.py')
FEW = [f'{split}_dataloader.dataset.num_images=6' for split in ('train', 'val')]
QUICK = ('--steps', 2, '--batch-size', 2, '--num-images', 6, '--num-val-images', 6, '--num-workers', 0)


@pytest.fixture(scope='module')
def dense(tmp_path_factory):
    init_default_scope('mmseg')
    path = tmp_path_factory.mktemp('dense') / 'dense.pth'
    torch.save(dict(state_dict=MODELS.build(load_config(DENSE).model).state_dict()), path)
    return path


@pytest.mark.parametrize('targets', [['boundary', 'utility'], ['uncertainty']])
def test_a_fitted_gate_starts_a_training(run, dense, tmp_path, targets):
    output = tmp_path / 'fitted.pth'
    words = (*QUICK, '--target', *targets, '--coarse-ratio', 0.6)
    printed = run('fit-gate', OWN, dense, output, *words, '--cfg-options', *FEW)
    assert all(f'against {name}, 6 validation images' in printed for name in targets)
    record = json.loads(output.with_suffix('.json').read_text())
    assert list(record['auc']) == record['target'] == targets and record['coarse_ratio'] == 0.6
    assert f'load_from = {str(output)!r}' in printed
    written = load_checkpoint_safely(output)
    model = MODELS.build(load_config(OWN).model)
    check_start(model, written['state_dict'], 'file')
    start = load_checkpoint_safely(dense)['state_dict']
    assert all(torch.equal(written['state_dict'][name], x) for name, x in start.items())
    assert {name for name in written['state_dict'] if name not in start} == {
        f'backbone.gate.{name}' for name in model.backbone.gate.state_dict()
    }


def test_of_three_scales_the_losses_say_the_ratios(run, dense, tmp_path):
    output = tmp_path / 'fitted.pth'
    options = 'model.backbone.patch_sizes=[8,16,32]', 'model.gate_loss.coarse_ratio=0.7'
    printed = run('fit-gate', OWN, dense, output, *QUICK, '--target', 'boundary', '--cfg-options', *FEW, *options)
    record = json.loads(output.with_suffix('.json').read_text())
    assert list(record['auc']) == ['boundary_32', 'boundary_16'] and record['coarse_ratio'] == 0.7
    assert 'against boundary_16, 6 validation images' in printed
    assert 'backbone.gate.gates.1.layers.0.weight' in load_checkpoint_safely(output)['state_dict']


def test_bad_input(fail, dense, tmp_path):
    output = tmp_path / 'new' / 'fitted.pth'

    def error(*arguments, config=OWN, checkpoint=dense):
        message = fail('fit-gate', config, checkpoint, output, *QUICK, *arguments)
        assert not output.parent.exists()
        return message

    assert '--coarse-ratio: wanted a number between 0 and 1, got 1' in error('--coarse-ratio', 1)
    silent = ('--cfg-options', 'model.gate_loss=None', 'model.utility_loss=None')
    assert '--coarse-ratio: wanted a number between 0 and 1, got none' in error(*silent)
    assert 'gate: wanted one with weights to fit' in error(config=DENSE)
    assert 'wanted a segmentor, got GatedImageClassifier' in error(config=CLASSIFIER)
    assert 'the checkpoint does not fit the model' in error('--target', 'utility', config=CLASSIFIER)
