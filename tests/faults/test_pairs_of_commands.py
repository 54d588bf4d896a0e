"""A gate that one command writes decides alike in every other: the same tokens of the same images."""

import json
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from test_cli.conftest import like_a_new_process

from msvit_cli import main
from msvit_mm.checkpoints import load_checkpoint_safely
from msvit_mm.cli.commands import visualize_gate
from msvit_mm.cli.config import load_config
from msvit_mm.cli.images import load_inputs
from msvit_mm.cli.models import build_gated_model
from msvit_mm.datasets.scenes import draw_scene, scene_rng
from msvit_mm.export import load_graph

pytestmark = pytest.mark.slow
SCENES = Path(__file__).parents[2] / 'configs' / 'msvit_upernet_scenes.py'
REGIONS, CELLS = 36, 144  # of an image
NUM_IMAGES = 3
# The Scenes network with small layers, on files that commands of data sets and commands of folders both can read.
SMALL = """
_base_ = {scenes!r}
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
        out_indices=[0],
    ),
    neck=None,
    auxiliary_head=None,
    decode_head=dict(
        _delete_=True, type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=10, norm_cfg=None
    ),
)
files = dict(
    _delete_=True,
    type='BaseSegDataset',
    data_root={data!r},
    data_prefix=dict(img_path='images', seg_map_path='labels'),
    img_suffix='.png',
    metainfo=dict(classes={classes!r}, palette=[[20 * i, 100, 50] for i in range(10)]),
    pipeline={{{{_base_.test_pipeline}}}},
)
train_dataloader = dict(dataset=files, num_workers=0, persistent_workers=False)
val_dataloader = dict(dataset=files, num_workers=0, persistent_workers=False)
test_dataloader = dict(dataset=files, num_workers=0, persistent_workers=False)
"""
FROZEN = """
_base_ = 'small.py'
model = dict(backbone=dict(gate=dict(frozen=True)), gate_loss=None)
"""
# How a gate came to where it is read; the threshold of all is the calibrated one.
WRITERS = ('calibrated', 'frozen', 'moved', 'fitted and moved back', 'published', 'published folder', 'converted')
READERS = ('get-flops', 'test', 'compare-gates', 'predict', 'visualize-gate', 'export')
OF_FOLDERS = ('predict',)  # the commands that take a folder of safetensors in place of config and checkpoint
PAIRS = [
    (writer, reader) for writer in WRITERS for reader in READERS if writer != 'published folder' or reader in OF_FOLDERS
]


def call(*arguments):
    with like_a_new_process('unused'):
        main([str(word) for word in arguments])


def build(config):
    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    return MODELS.build(cfg.model), cfg


def save(model, path, **meta):
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Images and configs."""
    folder = tmp_path_factory.mktemp('pairs')
    for kind in ('images', 'labels'):
        (folder / kind).mkdir()
    for i in range(NUM_IMAGES):
        image, labels = draw_scene(scene_rng(0, 'val', i), (96, 96))
        cv2.imwrite(str(folder / 'images' / f'{i}.png'), image)
        cv2.imwrite(str(folder / 'labels' / f'{i}.png'), labels)
    words = dict(scenes=str(SCENES), data=str(folder), classes=[f'class {i}' for i in range(10)])
    (folder / 'small.py').write_text(SMALL.format(**words))
    (folder / 'frozen.py').write_text(FROZEN)
    return folder


@pytest.fixture(scope='module')
def written(folder):
    """Config and checkpoint of each way."""
    config = folder / 'small.py'
    model, cfg = build(config)
    torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)
    trained = save(model, folder / 'trained.pth', cfg=cfg.pretty_text, iter=4, epoch=0)
    calibrated, moved = folder / 'calibrated.pth', folder / 'moved.pth'
    call('calibrate-gate', config, trained, calibrated, '--num-tokens', 80, '--num-images', NUM_IMAGES)
    call('transfer-gate', config, calibrated, config, moved, '--target-checkpoint', trained)

    frozen = load_checkpoint_safely(calibrated)
    weights = {key: x for key, x in frozen['state_dict'].items() if not key.startswith('gate_loss')}
    torch.save(dict(frozen, state_dict=weights), folder / 'frozen.pth')

    few = ('--steps', 2, '--batch-size', 2, '--num-images', 2, '--num-val-images', 2, '--num-workers', 0)
    call('fit-gate', config, calibrated, folder / 'fitted.pth', '--coarse-ratio', 0.6, *few)
    arguments = config, calibrated, config, folder / 'back.pth'
    call('transfer-gate', *arguments, '--target-checkpoint', folder / 'fitted.pth')

    call('publish-model', config, calibrated, folder / 'published.pth')
    (published,) = folder.glob('published-*.pth')
    call('publish-model', config, calibrated, folder / 'hub')

    call('convert-checkpoint', calibrated, folder / 'dense.pth', '--config', config)  # leaves the gate behind
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(folder / 'dense.pth'))
    cfg.dump(folder / 'started.py')
    model, _ = build(folder / 'started.py')
    model.init_weights()
    save(model, folder / 'started.pth')
    arguments = config, calibrated, config, folder / 'converted.pth'
    call('transfer-gate', *arguments, '--target-checkpoint', folder / 'started.pth')
    return {
        'calibrated': (config, calibrated),
        'frozen': (folder / 'frozen.py', folder / 'frozen.pth'),
        'moved': (config, moved),
        'fitted and moved back': (config, folder / 'back.pth'),
        'published': (config, published),
        'published folder': (None, folder / 'hub'),
        'converted': (config, folder / 'converted.pth'),
        'fitted': (config, folder / 'fitted.pth'),
    }


def exported_tokens(config, checkpoint, images, out):
    """What the exported gate counts, image by image."""
    arguments = ('--token-budget', 81, '--size', 96, 96, '--with-gate', '--backbone')
    call('export', config, checkpoint, out / 'a.pt2', *arguments)
    listed = json.loads((out / 'a.json').read_text())
    cfg = load_config(str(config))
    inputs, _ = load_inputs(cfg, build_gated_model(cfg, str(checkpoint), 'cpu'), NUM_IMAGES, (96, 96), str(images))
    gate = load_graph(out / listed['gate']['file'])
    return [REGIONS + (CELLS // REGIONS - 1) * gate(image)[1].item() for image in inputs.split(1)]


def tokens_of(command, config, checkpoint, images, out):
    """Tokens of each image, or their mean, as a command counts them."""
    out.mkdir()
    if command == 'get-flops':
        call(command, config, checkpoint, '--out', out / 'flops.json')
        return [json.loads((out / 'flops.json').read_text())['num_tokens']['mean']]
    if command == 'test':
        call(command, config, checkpoint, '--work-dir', out)
        (metrics,) = out.glob('2*/2*.json')
        return [json.loads(metrics.read_text())['num_tokens']]
    if command == 'compare-gates':
        call(command, config, checkpoint, '--out-dir', out / 'gates', '--work-dir', out / 'w', '--num-images', 1)
        return [json.loads((out / 'gates' / 'gates.json').read_text())['gates']['learned']['num_tokens']]
    if command == 'predict':
        where = ('--config', config) if config else ()
        call(command, checkpoint, images, *where, '--out-dir', out / 'p', '--out', out / 'predict.json')
        return [row['num_tokens'] for row in json.loads((out / 'predict.json').read_text())['images']]
    if command == 'visualize-gate':
        drawn, draw = [], visualize_gate.draw_choices
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(visualize_gate, 'draw_choices', lambda *x: drawn.append(x[1].num_tokens) or draw(*x))
            call(command, config, checkpoint, images, '--out-dir', out / 'maps')
        return drawn
    return exported_tokens(config, checkpoint, images, out)


@pytest.fixture(scope='module')
def wanted(written, folder):
    """Tokens of each image under the calibrated gate, asked of the network itself."""
    config, checkpoint = written['calibrated']
    cfg = load_config(str(config))
    model = build_gated_model(cfg, str(checkpoint), 'cpu')
    inputs, _ = load_inputs(cfg, model, NUM_IMAGES, (96, 96), str(folder / 'images'))
    with torch.no_grad():
        tokens = model.backbone.forward_gated(inputs)[1].num_tokens.tolist()
    assert len(set(tokens)) > 1 and REGIONS < sum(tokens) / len(tokens) < CELLS
    return tokens


@pytest.mark.parametrize(('writer', 'reader'), PAIRS)
def test_every_pair(written, wanted, folder, tmp_path, writer, reader):
    config, checkpoint = written[writer]
    counted = tokens_of(reader, config, checkpoint, folder / 'images', tmp_path / 'out')
    assert counted == (wanted if len(counted) > 1 else [pytest.approx(sum(wanted) / NUM_IMAGES)])


@pytest.mark.parametrize('reader', READERS)
def test_a_fitted_gate(written, wanted, folder, tmp_path, reader):
    """It decides otherwise than before, and alike in every command."""
    fitted = {
        name: tokens_of(name, *written['fitted'], folder / 'images', tmp_path / name) for name in {'predict', reader}
    }
    assert fitted['predict'] != wanted
    counted = fitted[reader]
    assert counted == (fitted['predict'] if len(counted) > 1 else [pytest.approx(sum(fitted['predict']) / NUM_IMAGES)])
