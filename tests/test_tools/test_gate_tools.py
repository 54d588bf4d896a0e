"""The commands that show what a gate chose, on a network of random weights."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).parents[2]

CONFIG = ROOT / 'configs' / 'msvit_upernet_scenes.py'


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


def test_visualize_gate_draws_routes(run_tool, tmp_path):
    config = ROOT / 'configs' / 'dit_upernet_scenes.py'
    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, tmp_path / 'random.pth')
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 255, (70, 130, 3), dtype=np.uint8))
    arguments = (config, tmp_path / 'random.pth', tmp_path / 'a.png', '--out-dir', tmp_path / 'out')
    process = run_tool('visualize_gate.py', *arguments)
    assert process.returncode == 0, process.stderr
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a.npz', 'a.png', 'summary.png']
    assert all(cv2.imread(str(path)).std() > 10 for path in (tmp_path / 'out').glob('*.png'))
    saved = np.load(tmp_path / 'out' / 'a.npz')
    assert saved['routes_s8'].shape == (5, 9, 17) and saved['merges_s8'].shape == (6, 9, 17)
    assert saved['cost_ratio'] > 1
