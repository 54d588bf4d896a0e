"""Counting by the command, on networks of random weights."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

CONFIG = Path(__file__).parents[2] / 'configs' / 'msvit_upernet_scenes.py'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)  # decisions that differ
    path = tmp_path_factory.mktemp('flops') / 'random.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)
    return path


def test_counts_a_data_set_and_checks_itself(run, checkpoint, tmp_path):
    out = tmp_path / 'flops.json'
    printed = run('get-flops', CONFIG, checkpoint, '--num-images', 6, '--check', '--out', out)
    for words in ('closed form against FlopCounterMode', '1 MAC = 1 FLOP', 'Fused attention hides'):
        assert words in printed
    assert 'No checkpoint' not in printed
    written = json.loads(out.read_text())
    tokens, gmacs = written['num_tokens'], written['gmacs']
    assert written['num_images'] == 6
    assert tokens['dense'] == 144
    assert 36 <= tokens['p5'] <= tokens['p50'] <= tokens['p95'] <= 144
    assert tokens['p5'] < tokens['p95']
    assert tokens['ratio'] == tokens['mean'] / 144
    for name in ('mean', 'dense'):
        assert sum(gmacs[part][name] for part in ('gate', 'embedding', 'encoder')) == pytest.approx(
            gmacs['backbone'][name]
        )
        assert gmacs['backbone'][name] + gmacs['decoder'][name] == pytest.approx(gmacs['whole'][name])
    assert gmacs['gate']['ratio'] is None
    assert gmacs['decoder']['ratio'] == 1
    assert written['checkpoint'] == str(checkpoint)
    assert {'config', 'seed', 'device', 'threads', 'versions'} <= set(written)


def test_counts_a_folder_and_says_that_weights_are_random(run, write_photos, tmp_path):
    photos = write_photos(a_png=(96, 96), b_jpg=(70, 130))
    printed = run('get-flops', CONFIG, '--images', photos, '--out', tmp_path / 'flops.json')
    assert 'No checkpoint' in printed
    written = json.loads((tmp_path / 'flops.json').read_text())
    assert written['num_images'] == 2
    assert written['num_tokens']['dense'] == (12 * 12 + 9 * 17) / 2


def test_folder_without_images(fail, tmp_path):
    assert 'wanted an image file or a folder with' in fail('get-flops', CONFIG, '--images', tmp_path)


def test_a_head_on_tokens_shrinks_with_them(run, tmp_path):
    config, out = CONFIG.with_name('msvit_mixedsegmenter_scenes.py'), tmp_path / 'flops.json'
    options = ('--num-images', 1, '--check', '--cfg-options', 'model.backbone.gate.initial_ratio=0.9999', '--out', out)
    run('get-flops', config, *options)
    written = json.loads(out.read_text())
    assert written['num_tokens']['mean'] == 36
    assert 0.25 < written['gmacs']['decoder']['ratio'] < 0.35  # of the tokens a quarter is left, of the classes all
