"""The command that exports: the files of a ladder, what it says of them, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from msvit_mm.cli.config import load_config
from msvit_mm.cli.images import load_inputs
from msvit_mm.cli.models import build_gated_model
from msvit_mm.export import load_graph

CONFIGS = Path(__file__).parents[2] / 'configs'
CONFIG = CONFIGS / 'msvit_upernet_scenes.py'
SIZE = ('--size', 96, 96)
TORCH_ALONE = """
import sys
sys.modules |= dict.fromkeys(('mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'msvit_mm'))  # None: not to be imported
import torch
graph, images, scores = sys.argv[1:]
torch.save(torch.export.load(graph).module()(torch.load(images)), scores)
"""


def save(config, path):
    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)  # decisions that differ
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)
    return path


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return save(CONFIG, tmp_path_factory.mktemp('export') / 'random.pth')


@pytest.mark.slow
def test_a_ladder_with_its_gate(run, checkpoint, tmp_path):
    """A caller picks by the gate alone, and gets what the eager network computes under that budget."""
    out = tmp_path / 'out' / 'scenes.pt2'
    printed = run('export', CONFIG, checkpoint, out, '--token-budget', 120, 60, *SIZE, '--with-gate')
    assert 'written     3 files' in printed
    listed = json.loads(out.with_suffix('.pt2.json').read_text())
    assert [row['num_fine'] for row in listed['engines']] == [8, 28]
    assert [row['num_tokens'] for row in listed['engines']] == [60, 120]
    assert listed['engines'][0]['gmacs'] < listed['engines'][1]['gmacs']
    assert all(row['max_difference'] < 1e-4 for row in [*listed['engines'], listed['gate']])
    assert listed['preprocessing'] == dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[63.75] * 3, bgr_to_rgb=True
    )
    assert (listed['batch_size'], listed['image_size']) == (1, [96, 96])
    assert {'config', 'checkpoint', 'versions', 'compared_on'} <= set(listed)

    cfg = load_config(CONFIG)
    model = build_gated_model(cfg, str(checkpoint), 'cpu')
    images, _ = load_inputs(cfg, model, 2, (96, 96))
    for image in images.split(1):
        _, num_fine = load_graph(out.parent / listed['gate']['file'])(image)
        picked = next((row for row in listed['engines'] if row['num_fine'] >= num_fine), listed['engines'][-1])
        with torch.no_grad(), model.backbone.configured(token_budget=picked['num_tokens']):
            wanted = model.inference(image, [dict(img_shape=(96, 96))])
        torch.testing.assert_close(load_graph(out.parent / picked['file'])(image)[0], wanted, atol=1e-4, rtol=1e-4)

    files = [out.parent / picked['file'], tmp_path / 'images.pt', tmp_path / 'scores.pt']
    torch.save(image, files[1])
    subprocess.run([sys.executable, '-c', TORCH_ALONE, *map(str, files)], check=True)
    torch.testing.assert_close(torch.load(files[2]), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('config', ['msvit_upernet_scenes', 'msvit_mixedsegmenter_scenes'])
@pytest.mark.slow
def test_times_beside_the_dense_network(run, tmp_path, config):
    weights = save(CONFIGS / f'{config}.py', tmp_path / 'random.pth')
    run('export', config, weights, tmp_path / 'x.pt2', '--token-budget', 60, 144, *SIZE, '--with-gate', '--time', 2)
    listed = json.loads((tmp_path / 'x.pt2.json').read_text())
    small, full = listed['engines']
    assert listed['dense']['time_ratio'] == listed['dense']['efficiency'] == 1
    for row in (small, full):
        assert {'time_ms', 'time_ratio', 'efficiency'} <= set(row)
    assert 'time_ms' not in listed['gate']
    # a gate costs multiply-adds that the dense network saves
    assert small['efficiency'] * small['time_ratio'] < 1 <= full['efficiency'] * full['time_ratio'] < 1.05


def test_the_backbone_alone(run, checkpoint, tmp_path):
    options = ('--token-budget', 60, *SIZE, '--backbone', '--time', 1)
    (tmp_path / 'maps.onnx.json').write_text('of another form')
    printed = run('export', CONFIG, checkpoint, tmp_path / 'maps.pt2', *options)
    assert [printed.count(word) for word in ('exporting', 'timing')] == [1, 1]
    cfg = load_config(CONFIG)
    model = build_gated_model(cfg, str(checkpoint), 'cpu')
    images, _ = load_inputs(cfg, model, 1, (96, 96))
    with torch.no_grad(), model.backbone.configured(token_budget=60):
        wanted = model.backbone(images)
    for got, maps in zip(load_graph(tmp_path / 'maps-60.pt2')(images), wanted, strict=True):
        torch.testing.assert_close(got, maps, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_without_a_budget_it_masks(run, checkpoint, tmp_path):
    run('export', CONFIG, checkpoint, tmp_path / 'scenes', '--format', 'pt2', *SIZE, '--batch-size', 2)
    listed = json.loads((tmp_path / 'scenes.pt2.json').read_text())
    assert listed['engines'] == []
    assert listed['masked']['file'] == 'scenes-masked.pt2'
    cfg = load_config(CONFIG)
    model = build_gated_model(cfg, str(checkpoint), 'cpu')
    images, _ = load_inputs(cfg, model, 2, (96, 96))
    with torch.no_grad():
        wanted = model.inference(images, [dict(img_shape=(96, 96))] * 2)
    torch.testing.assert_close(load_graph(tmp_path / 'scenes-masked.pt2')(images)[0], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['x.pth', '--token-budget', 60, *SIZE], 'wanted a name that ends in .onnx'),
        (['x.pt2', '--format', 'onnx', '--token-budget', 60, *SIZE], 'wanted a name that ends in .onnx'),
        (['x.pt2', '--token-budget', 20, *SIZE], 'token_budget: wanted at least 36'),
        (['x.pt2', '--token-budget', 60, '--size', 100, 96], 'image size of multiples of 16 pixels'),
        (['x.pt2', '--token-budget', 60, 61, *SIZE], 'wanted each to give another number of fine regions'),
        (['x.pt2', '--time', 3, *SIZE], '--time: wanted a --token-budget whose saving is timed, got none'),
    ],
)
def test_refused(fail, checkpoint, tmp_path, arguments, message):
    name, *others = arguments
    assert message in fail('export', CONFIG, checkpoint, tmp_path / name, *others)
    assert not list(tmp_path.iterdir())


def test_routed_backbones_are_refused(fail, tmp_path):
    config = CONFIGS / 'dit_upernet_scenes.py'
    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, tmp_path / 'random.pth')
    message = fail('export', config, tmp_path / 'random.pth', tmp_path / 'x.pt2', '--token-budget', 60, *SIZE)
    assert 'wanted a backbone with a static form such as MSViT, got DynamicTokenRoutingTransformer' in message


def test_existing_files_stay(fail, checkpoint, tmp_path):
    (tmp_path / 'x.pt2.json').write_text('mine')
    message = fail('export', CONFIG, checkpoint, tmp_path / 'x.pt2', '--token-budget', 60, *SIZE)
    assert 'wanted a new file, got an existing one' in message
