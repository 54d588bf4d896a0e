"""The commands that show what a gate chose, on a network of random weights."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).parents[2]

CONFIG = ROOT / 'configs' / 'msvit_upernet_scenes.py'
ROUTES = ROOT / 'configs' / 'dit_upernet_scenes.py'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('gate') / 'random.pth'
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, path)
    return path


def test_visualize_gate_draws_every_image_of_a_folder(run_tool, checkpoint, tmp_path):
    (tmp_path / 'photos').mkdir()
    for name, size in (('a.png', (96, 96)), ('b.jpg', (70, 130))):
        image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / 'photos' / name), image)
    process = run_tool('visualize_gate.py', CONFIG, checkpoint, tmp_path / 'photos', '--out-dir', tmp_path / 'out')
    assert process.returncode == 0, process.stderr
    drawn = {path.name: cv2.imread(str(path)) for path in (tmp_path / 'out').iterdir()}
    assert sorted(drawn) == ['a.png', 'b.png']
    assert all(image.std() > 10 for image in drawn.values())


@pytest.mark.parametrize(
    ('images', 'message'),
    [('absent', 'wanted an image file or a folder'), ('broken.png', 'wanted a readable image file, got none')],
)
def test_visualize_gate_without_images(run_tool, checkpoint, tmp_path, images, message):
    (tmp_path / 'broken.png').write_text('not an image')
    process = run_tool('visualize_gate.py', CONFIG, checkpoint, tmp_path / images, '--out-dir', tmp_path / 'out')
    assert process.returncode == 1
    assert message in process.stderr
    assert 'Traceback' not in process.stderr


def test_compare_gates_writes_table_and_picture(run_tool, checkpoint, tmp_path):
    options = ('--out-dir', tmp_path, '--work-dir', tmp_path / 'work', '--num-images', 2)
    few = ('test_dataloader.dataset.num_images=8', 'test_dataloader.num_workers=0', 'randomness.seed=3')
    few += ('test_dataloader.persistent_workers=False',)
    process = run_tool('compare_gates.py', CONFIG, checkpoint, *options, '--cfg-options', *few)
    assert process.returncode == 0, process.stderr
    written = json.loads((tmp_path / 'gates.json').read_text())
    gates = written['gates']
    assert list(gates) == ['learned', 'random', 'edges', 'all fine', 'all coarse']
    assert gates['all fine']['num_tokens'] == 144
    assert gates['all coarse']['num_tokens'] == 36
    assert gates['all fine']['auc'] == 0.5
    assert abs(gates['random']['coarse_ratio'] - gates['learned']['coarse_ratio']) < 1 / 36
    assert written['seed'] == 3
    assert all(name in process.stdout for name in gates)
    assert cv2.imread(str(tmp_path / 'gates.png')).std() > 10


@pytest.fixture(scope='module')
def routed_checkpoint(tmp_path_factory):
    """Random weights of a token router that opens about half of its tokens."""
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(ROUTES).model)
    for _, linear in model.backbone.gate.logits.values():
        torch.nn.init.normal_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    path = tmp_path_factory.mktemp('routes') / 'random.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)
    return path


def test_visualize_gate_draws_routes(run_tool, routed_checkpoint, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 255, (70, 130, 3), dtype=np.uint8))
    arguments = (ROUTES, routed_checkpoint, tmp_path / 'a.png', '--out-dir', tmp_path / 'out')
    process = run_tool('visualize_gate.py', *arguments)
    assert process.returncode == 0, process.stderr
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a.npz', 'a.png', 'summary.png']
    assert all(cv2.imread(str(path)).std() > 10 for path in (tmp_path / 'out').glob('*.png'))
    saved = np.load(tmp_path / 'out' / 'a.npz')
    assert saved['routes_s8'].shape == (5, 9, 17) and saved['merges_s8'].shape == (6, 9, 17)
    assert saved['cost_ratio'] > 0.5


def test_compare_gates_on_routes(monkeypatch, routed_checkpoint, tmp_path):
    few = ('test_dataloader.dataset.num_images=4', 'test_dataloader.num_workers=0')
    few += ('test_dataloader.persistent_workers=False',)
    options = ('--out-dir', tmp_path, '--work-dir', tmp_path / 'work', '--num-images', 2, '--cfg-options', *few)
    tool = ROOT / 'tools' / 'compare_gates.py'
    monkeypatch.setattr(sys, 'argv', [*map(str, (tool, ROUTES, routed_checkpoint, *options))])
    runpy.run_path(str(tool), run_name='__main__')
    gates = json.loads((tmp_path / 'gates.json').read_text())['gates']
    assert list(gates) == ['learned', 'shuffled', 'random', 'all open', 'staircase', 'all closed']
    ratios = {name: metrics['route_ratio'] for name, metrics in gates.items()}
    assert ratios['staircase'] == pytest.approx(1)
    assert ratios['random'] == pytest.approx(ratios['learned'], abs=0.05)
    assert ratios['shuffled'] == pytest.approx(ratios['learned'], abs=0.1)  # other features, other logits
    assert ratios['all closed'] < 0.2 < ratios['learned'] < ratios['all open'] - 0.2
    assert cv2.imread(str(tmp_path / 'gates.png')).std() > 10


@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [
        ('transfer_gate.py', (ROUTES, 'CHECKPOINT', CONFIG, 'OUT')),
        ('calibrate_gate.py', (ROUTES, 'CHECKPOINT', 'OUT', '--coarse-ratio', 0.5)),
        ('plot_tradeoff.py', ('OUT', '--model', 'routes', ROUTES, 'CHECKPOINT', '--random', 0.5)),
    ],
)
def test_tools_for_regions_refuse_routes(monkeypatch, routed_checkpoint, tmp_path, tool, arguments):
    monkeypatch.chdir(tmp_path)
    words = dict(CHECKPOINT=routed_checkpoint, OUT=tmp_path / 'new' / 'out.pth')
    monkeypatch.setattr(sys, 'argv', [tool, *(str(words.get(word, word)) for word in arguments)])
    wanted = "^error: config '.*dit_upernet_scenes.py': wanted a gate over regions .MSViT., got DynamicTokenRouting"
    with pytest.raises(SystemExit, match=wanted) as error_info:
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    assert '\n' not in error_info.value.code
    assert not (tmp_path / 'new').exists()
