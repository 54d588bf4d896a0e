"""A gate that one command writes decides alike in every other: the same tokens of the same images."""

import json
import sys
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from msvit_cli import main
from msvit_mm.cli.commands import visualize_gate
from msvit_mm.datasets.scenes import draw_scene, scene_rng

CONFIG = Path(__file__).parents[2] / 'configs' / 'msvit_upernet_scenes.py'
FROZEN = f"""
_base_ = {str(CONFIG)!r}
model = dict(backbone=dict(gate=dict(frozen=True)), gate_loss=None)
"""
FEW = ('test_dataloader.dataset.num_images=3', 'test_dataloader.num_workers=0')
FEW += ('test_dataloader.persistent_workers=False',)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Checkpoints of one gate: as trained, calibrated, and moved into another network of the same weights."""
    folder = tmp_path_factory.mktemp('pairs')
    (folder / 'frozen.py').write_text(FROZEN)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIG).model)
    torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'trained.pth')
    call(
        'calibrate-gate',
        CONFIG,
        folder / 'trained.pth',
        folder / 'calibrated.pth',
        '--num-tokens',
        80,
        '--num-images',
        4,
    )
    for name in ('trained', 'calibrated'):
        arguments = CONFIG, folder / f'{name}.pth', CONFIG, folder / f'{name}_moved.pth'
        call('transfer-gate', *arguments, '--target-checkpoint', folder / 'trained.pth')
    return folder


def call(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['msvit'])
        main([str(word) for word in arguments])


def tokens_of(command, config, checkpoint, out):
    """Tokens per image, as a command counts them."""
    if command == 'get-flops':
        call(command, config, checkpoint, '--out', out / 'flops.json', '--cfg-options', *FEW)
        return json.loads((out / 'flops.json').read_text())['num_tokens']['mean']
    call(
        command, config, checkpoint, '--out-dir', out, '--work-dir', out / 'w', '--num-images', 1, '--cfg-options', *FEW
    )
    return json.loads((out / 'gates.json').read_text())['gates']['learned']['num_tokens']


@pytest.mark.slow
@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize(
    'names', [('trained', 'trained_moved'), ('calibrated', 'calibrated_moved')], ids=lambda x: x[0]
)
def test_pairs(folder, names, frozen, tmp_path):
    config = folder / 'frozen.py' if frozen else CONFIG
    counted = {}
    for name in names:
        checkpoint = folder / f'{name}.pth'
        if frozen:  # without the priors, which this model has not
            loaded = torch.load(checkpoint, weights_only=True)
            weights = {key: value for key, value in loaded['state_dict'].items() if not key.startswith('gate_loss')}
            checkpoint = tmp_path / f'{name}.pth'
            torch.save(loaded | dict(state_dict=weights), checkpoint)
        for command in ('get-flops', 'compare-gates'):
            counted[name, command] = tokens_of(command, config, checkpoint, tmp_path / name / command)
    values = list(counted.values())
    assert values == pytest.approx([values[0]] * len(values)), counted
    assert 36 < values[0] < 144


@pytest.mark.slow
def test_drawing_sees_what_counting_sees(folder, tmp_path, monkeypatch):
    image, _ = draw_scene(scene_rng(0, 'val', 3), (150, 190))
    (tmp_path / 'photos').mkdir()
    cv2.imwrite(str(tmp_path / 'photos' / 'a.png'), image)
    drawn, original = [], visualize_gate.draw_choices
    monkeypatch.setattr(
        visualize_gate, 'draw_choices', lambda *words: drawn.append(words[1].num_tokens) or original(*words)
    )
    call('visualize-gate', CONFIG, folder / 'trained.pth', tmp_path / 'photos', '--out-dir', tmp_path / 'out')
    arguments = CONFIG, folder / 'trained.pth', '--images', tmp_path / 'photos', '--out', tmp_path / 'flops.json'
    call('get-flops', *arguments)
    assert drawn == [json.loads((tmp_path / 'flops.json').read_text())['num_tokens']['mean']]
