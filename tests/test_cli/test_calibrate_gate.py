"""The command that stores a gate's threshold: what it writes, and that it writes nothing when it fails."""

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from msvit_mm.checkpoints import load_checkpoint_safely
from msvit_mm.checkpoints.publish import find_metrics

ROOT = Path(__file__).parents[2]
SEGMENTOR = ROOT / 'configs' / 'msvit_upernet_scenes.py'
CLASSIFIER = ROOT / 'configs' / 'msvit_classifier_scenes.py'
META = dict(iter=3, cfg='a = 1', metrics=dict(mIoU=50.0))


def build(config, path, prefix=''):
    """Write random weights of a config's model, with a gate whose decisions differ, as a training run would."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)
    weights = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    torch.save(dict(state_dict=weights, meta=META, optimizer=dict(state=[1])), path)
    return path


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    return build(SEGMENTOR, tmp_path_factory.mktemp('calibrate') / 'segmentor.pth', prefix='module.')


@pytest.fixture
def calibrate(run):
    return partial(run, 'calibrate-gate')


@pytest.fixture
def check_fails(fail, tmp_path):
    """Run the command and check that it ends with one line and writes nothing."""

    def check(message, *arguments, budget=('--coarse-ratio', 0.5)):
        assert message in fail('calibrate-gate', *arguments, tmp_path / 'new' / 'out.pth', *budget)
        assert not (tmp_path / 'new').exists()

    return check


def test_run_as_a_command(run, segmentor, tmp_path):
    output = tmp_path / 'new' / 'calibrated.pth'
    options = ('num_workers=0', 'persistent_workers=False', 'dataset.num_images=6')
    options = '--cfg-options', *(f'test_dataloader.{option}' for option in options)
    budget = '--coarse-ratio', 0.5, '--split', 'test'
    printed = run('calibrate-gate', SEGMENTOR, segmentor, output, *budget, *options)
    assert 'wanted     coarse_ratio 0.5, mean of 6 images' in printed
    assert sorted(path.name for path in output.parent.iterdir()) == ['calibrated.json', 'calibrated.pth']
    record = json.loads(output.with_suffix('.json').read_text())
    assert record['images'] == 'test data set'
    assert abs(record['after']['coarse_ratio'] - 0.5) <= 0.5 / (6 * 36) < abs(record['before']['coarse_ratio'] - 0.5)
    assert {'config', 'seed', 'device', 'versions'} <= set(record)

    printed = run('test', SEGMENTOR, output, '--work-dir', tmp_path, *options)
    assert f'coarse_ratio {record["after"]["coarse_ratio"]:.4g} |' in printed


def test_nothing_but_the_gate_and_the_meta_changes(calibrate, segmentor, tmp_path):
    printed = calibrate(SEGMENTOR, segmentor, tmp_path / 'out.pth', '--num-tokens', 80, '--num-images', 4)
    written, old = load_checkpoint_safely(tmp_path / 'out.pth'), load_checkpoint_safely(segmentor)
    report = written['meta'].pop('gate_calibration')
    assert written['meta'] == META | dict(metrics={})
    assert find_metrics(written, tmp_path / 'out.pth', 'iter') == {}
    assert set(written) == {'meta', 'state_dict'}
    bias = 'module.backbone.gate.layers.6.bias'
    for key, tensor in old['state_dict'].items():
        shift = report['threshold'] if key == bias else 0
        torch.testing.assert_close(written['state_dict'][key], tensor - shift)
    assert f'threshold  {report["threshold"]:.6g}, which is 0 now' in printed
    assert f'tokens {report["after"]["num_tokens"]:.2f}' in printed
    assert abs(report['after']['num_tokens'] - 80) <= 3 / 4 / 2


def test_classifier_on_a_folder_by_gmacs(calibrate, tmp_path):
    folder, checkpoint = tmp_path / 'photos', build(CLASSIFIER, tmp_path / 'classifier.pth')
    folder.mkdir()
    for seed, name in enumerate('ab'):
        image = np.random.default_rng(seed).integers(0, 255, (96, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{name}.png'), image)
    calibrate(CLASSIFIER, checkpoint, tmp_path / 'out.pth', '--gmacs', 0.05, '--images', folder)
    record = json.loads((tmp_path / 'out.json').read_text())
    assert (record['num_images'], record['images']) == (2, str(folder))
    assert record['after']['gmacs'] == pytest.approx(0.05, rel=0.02)


def test_existing_output(calibrate, segmentor, tmp_path):
    arguments = SEGMENTOR, segmentor, tmp_path / 'out.pth', '--coarse-ratio', 0.5, '--num-images', 1
    for name in ('out.pth', 'out.json'):
        (tmp_path / name).write_bytes(b'old')
        with pytest.raises(SystemExit, match=f'{name}.*: wanted a new file, got an existing one; --overwrite'):
            calibrate(*arguments)
        assert (tmp_path / name).read_bytes() == b'old'
        (tmp_path / name).unlink()
    (tmp_path / 'out.pth').write_bytes(b'old')
    assert 'written' in calibrate(*arguments, '--overwrite')
    assert load_checkpoint_safely(tmp_path / 'out.pth')['state_dict']


def test_bad_input(check_fails, segmentor, tmp_path):
    out = tmp_path / 'empty'
    out.mkdir()
    few = '--num-images', 1
    check_fails('num_tokens: wanted a budget between 36 (all', SEGMENTOR, segmentor, budget=('--num-tokens', 35, *few))
    check_fails('wanted an image file or a folder', SEGMENTOR, segmentor, budget=('--gmacs', 1, '--images', out))
    check_fails('wanted a file, got none', SEGMENTOR, tmp_path / 'absent.pth')
    check_fails('the checkpoint does not fit the model', CLASSIFIER, segmentor)
    (tmp_path / 'shallow.py').write_text(
        f'_base_ = {str(SEGMENTOR)!r}\nmodel = dict(backbone=dict(arch=dict(num_layers=3), out_indices=[0, 1, 2]))'
    )
    check_fails("wanted weights of the config's model alone", tmp_path / 'shallow.py', segmentor)
    torch.save(dict(state_dict={}), tmp_path / 'empty.pth')
    random = ROOT / 'configs/studies/baselines/random_upernet_scenes.py'
    weights = {k: t for k, t in load_checkpoint_safely(segmentor)['state_dict'].items() if 'gate' not in k}
    torch.save(dict(state_dict=weights), tmp_path / 'random.pth')
    check_fails('wanted one whose logits can shift', random, tmp_path / 'random.pth')
    options = '--cfg-options', 'train_dataloader=None'
    check_fails('got no train_dataloader', SEGMENTOR, segmentor, budget=('--coarse-ratio', 0.5, *options))
