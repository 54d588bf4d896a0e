"""The commands that show what a gate chose, on a network of random weights."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from msvit_mm.cli.commands import compare_gates
from msvit_mm.cli.commands.visualize_gate import as_seen
from msvit_mm.cli.config import load_config
from msvit_mm.cli.images import load_split
from msvit_mm.datasets import ScenesDataset
from msvit_mm.visualization import WRONG, pale
from msvit_mm.visualization.scale_map import COARSE, FINE

ROOT = Path(__file__).parents[2]

CONFIG = ROOT / 'configs' / 'msvit_upernet_scenes.py'
DENSE = ROOT / 'configs' / 'studies' / 'baselines' / 'dense_fine_upernet_scenes.py'
ROUTES = ROOT / 'configs' / 'dit_upernet_scenes.py'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('gate') / 'random.pth'
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, path)
    return path


@pytest.fixture
def figures(monkeypatch):
    """The figures that compare-gates writes."""
    written = []
    png_bytes = compare_gates.png_bytes
    monkeypatch.setattr(
        compare_gates, 'png_bytes', lambda figure, dpi: written.append(figure) or png_bytes(figure, dpi)
    )
    return written


def check_words(figure, gates, choices):
    """Check titles, legend and what is red in a figure of two scenes; returns its pictures, (4, 1 + gates)."""
    axes = np.array(figure.axes).reshape(4, 1 + len(gates))
    titles = [f'{name}\n{row["mIoU"]:.3g} mIoU, {row["gmacs"]:.3g} GMACs' for name, row in gates.items()]
    assert [ax.get_title() for ax in axes[0]] == ['', *titles]
    classes = dict(zip(ScenesDataset.METAINFO['classes'], pale(ScenesDataset.METAINFO['palette']), strict=True))
    (legend,) = figure.legends
    shown = zip(legend.get_texts(), legend.get_patches(), strict=True)
    colours = {text.get_text(): np.multiply(patch.get_facecolor()[:3], 255) for text, patch in shown}
    assert list(colours) == [*choices, 'wrong', *classes]
    for name, colour in {**choices, 'wrong': WRONG, **classes}.items():
        np.testing.assert_allclose(colours[name], colour, atol=1e-6)
    pictures = np.vectorize(lambda ax: ax.images[0].get_array().data, otypes=[object])(axes)
    for ax, picture in zip(axes[1::2].flat, pictures[1::2].flat, strict=True):
        share = (picture == WRONG).all(-1).mean()
        (text,) = ax.texts
        assert share == 0 if text.get_text() == 'labels' else text.get_text().endswith(f' tokens, {share:.0%} wrong')
    return pictures


def test_visualize_gate_draws_every_image_of_a_folder(run, checkpoint, write_photos, tmp_path):
    photos = write_photos(a_png=(96, 96), b_jpg=(70, 130))
    run('visualize-gate', CONFIG, checkpoint, photos, '--out-dir', tmp_path / 'out')
    drawn = {path.name: cv2.imread(str(path)) for path in (tmp_path / 'out').iterdir()}
    assert sorted(drawn) == ['a.png', 'b.png']
    assert all(image.std() > 10 for image in drawn.values())


@pytest.mark.parametrize(
    ('images', 'message'),
    [('absent', 'wanted an image file or a folder'), ('broken.png', 'wanted a readable image file, got none')],
)
def test_visualize_gate_without_images(fail, checkpoint, tmp_path, images, message):
    (tmp_path / 'broken.png').write_text('not an image')
    assert message in fail('visualize-gate', CONFIG, checkpoint, tmp_path / images, '--out-dir', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_compare_gates_writes_table_and_picture(run, checkpoint, figures, tmp_path):
    options = ('--out-dir', tmp_path, '--work-dir', tmp_path / 'work', '--num-images', 2)
    few = ('test_dataloader.dataset.num_images=8', 'test_dataloader.num_workers=0', 'randomness.seed=3')
    few += ('test_dataloader.persistent_workers=False',)
    options += ('--beside', 'dense', DENSE, checkpoint, '--cfg-options', *few)
    printed = run('compare-gates', CONFIG, checkpoint, *options)
    written = json.loads((tmp_path / 'gates.json').read_text())
    gates = written['gates']
    assert list(gates) == ['learned', 'random', 'edges', 'all fine', 'all coarse', 'dense']
    assert gates['dense']['mIoU'] == gates['all fine']['mIoU']
    assert gates['all fine']['num_tokens'] == 144
    assert gates['all coarse']['num_tokens'] == 36
    assert gates['all fine']['auc'] == 0.5
    assert abs(gates['random']['coarse_ratio'] - gates['learned']['coarse_ratio']) < 1 / 36
    assert written['seed'] == 3
    assert all(name in printed for name in gates)
    pictures = check_words(*figures, gates, {'coarse token': COARSE, 'fine token': FINE})
    for name, *outlined in (('all fine', 0, 1), ('all coarse', 1, 0)):
        picture = pictures[0, 1 + list(gates).index(name)]
        assert [(picture == colour).all(-1).any() for colour in (COARSE, FINE)] == outlined
    assert cv2.imread(str(tmp_path / 'gates.png')).shape == (920, 1400, 3)


@pytest.mark.parametrize(
    ('config', 'beside', 'message'),
    [
        ('DENSE', (), 'wanted a gate that has learned something, got FixedGate'),
        ('CONFIG', ('learned', 'DENSE', 'C'), "--beside: wanted each name once and none 'learned', got learned"),
    ],
)
def test_compare_gates_refuses_before_it_evaluates(fail, checkpoint, tmp_path, config, beside, message):
    words = dict(CONFIG=CONFIG, DENSE=DENSE, C=checkpoint)
    beside = ('--beside', *(words.get(word, word) for word in beside)) if beside else ()
    arguments = (words[config], checkpoint, *beside, '--out-dir', tmp_path / 'out', '--work-dir', tmp_path)
    assert message in fail('compare-gates', *arguments)
    assert not (tmp_path / 'out').exists()


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


def test_visualize_gate_draws_routes(run, routed_checkpoint, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 255, (70, 130, 3), dtype=np.uint8))
    arguments = (ROUTES, routed_checkpoint, tmp_path / 'a.png', '--out-dir', tmp_path / 'out')
    run('visualize-gate', *arguments)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a.npz', 'a.png', 'summary.png']
    assert all(cv2.imread(str(path)).std() > 10 for path in (tmp_path / 'out').glob('*.png'))
    saved = np.load(tmp_path / 'out' / 'a.npz')
    assert saved['routes_s8'].shape == (5, 9, 17) and saved['merges_s8'].shape == (6, 9, 17)
    assert saved['cost_ratio'] > 0.5


@pytest.mark.slow
def test_compare_gates_on_routes(run, routed_checkpoint, figures, tmp_path):
    few = ('test_dataloader.dataset.num_images=4', 'test_dataloader.num_workers=0')
    few += ('test_dataloader.persistent_workers=False',)
    options = ('--out-dir', tmp_path, '--work-dir', tmp_path / 'work', '--num-images', 2, '--cfg-options', *few)
    run('compare-gates', ROUTES, routed_checkpoint, *options)
    gates = json.loads((tmp_path / 'gates.json').read_text())['gates']
    assert list(gates) == ['learned', 'shuffled', 'random', 'all open', 'staircase', 'all closed']
    ratios = {name: metrics['cost_ratio'] for name, metrics in gates.items()}
    assert ratios['staircase'] == pytest.approx(1)
    assert ratios['random'] == pytest.approx(ratios['learned'], abs=0.05)
    assert ratios['shuffled'] == pytest.approx(ratios['learned'], abs=0.1)  # other features, other logits
    assert ratios['all closed'] < 0.2 < ratios['learned'] < ratios['all open'] - 0.2
    depths = check_words(*figures, gates, {})[0, 1:]
    assert depths[-1].max() < depths[0].mean() < depths[3].mean()


@pytest.mark.parametrize(
    ('command', 'arguments'),
    [
        ('transfer-gate', (ROUTES, 'CHECKPOINT', CONFIG, 'OUT')),
        ('calibrate-gate', (ROUTES, 'CHECKPOINT', 'OUT', '--coarse-ratio', 0.5)),
        ('fit-gate', (ROUTES, 'CHECKPOINT', 'OUT')),
        ('plot-tradeoff', ('OUT', '--model', 'routes', ROUTES, 'CHECKPOINT', '--random', 0.5)),
    ],
)
def test_commands_for_regions_refuse_routes(fail, monkeypatch, routed_checkpoint, tmp_path, command, arguments):
    monkeypatch.chdir(tmp_path)
    words = dict(CHECKPOINT=routed_checkpoint, OUT=tmp_path / 'new' / 'out.pth')
    wanted = "^error: config '.*dit_upernet_scenes.py': wanted a gate over regions .MSViT., got DynamicTokenRouting"
    assert re.search(wanted, fail(command, *(words.get(word, word) for word in arguments)))
    assert not (tmp_path / 'new').exists()


def test_what_is_drawn_under_a_map_is_what_the_network_saw(tmp_path):
    photo = np.zeros((300, 900, 3), np.uint8)
    photo[:, :300, 2] = 255  # red, which the crop of the centre leaves out
    photo[:, 300:, 1] = 255
    cv2.imwrite(str(tmp_path / 'photo.png'), photo)
    init_default_scope('mmpretrain')
    (batch,) = load_split(load_config('msvit_classifier_imagenet'), 'test', folder=str(tmp_path))
    seen = as_seen(batch)
    assert seen.shape == (224, 224, 3)
    assert (seen == [0, 255, 0]).all()
