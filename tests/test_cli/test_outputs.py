"""What commands write: nothing over an input, nothing unasked over anything, and no work for what cannot be written."""

import json
import os
import shutil
from pathlib import Path

import cv2
import pytest
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from msvit_mm.cli.outputs import png_bytes, unique_names
from msvit_mm.models import memory

CONFIG = Path(__file__).parents[2] / 'configs' / 'msvit_upernet_scenes.py'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    init_default_scope('mmseg')
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('outputs') / 'random.pth'
    torch.save(dict(state_dict=MODELS.build(Config.fromfile(CONFIG).model).state_dict(), meta={}), path)
    return path


@pytest.fixture
def call(checkpoint, monkeypatch, tmp_path):
    """Arguments of every command that writes files, but for where to."""
    monkeypatch.chdir(tmp_path)
    return {
        'get-flops': lambda out: (CONFIG, checkpoint, '--num-images', 1, '--out', out),
        'benchmark': lambda out: (CONFIG, checkpoint, '--repeats', 1, '--out', out),
        'calibrate-gate': lambda out: (CONFIG, checkpoint, out, '--coarse-ratio', 0.5),
        'fit-gate': lambda out: (CONFIG, checkpoint, out),
        'transfer-gate': lambda out: (CONFIG, checkpoint, CONFIG, out),
        'convert-checkpoint': lambda out: (checkpoint, out),
        'publish-model': lambda out: (CONFIG, checkpoint, out),
        'export': lambda out: (CONFIG, checkpoint, Path(out).with_suffix('.onnx'), '--size', 64, 96),
        'check-dataset': lambda out: (CONFIG, '--num-images', 2, '--out', out),
        'compare-gates': lambda out: (CONFIG, checkpoint, '--out-dir', out),
        'plot-tradeoff': lambda out: (out, '--model', 'a', CONFIG, checkpoint),
        'visualize-gate': lambda out: (CONFIG, checkpoint, tmp_path / 'photos', '--out-dir', out),
        'predict': lambda out: (checkpoint, tmp_path / 'photos', '--config', CONFIG, '--out-dir', out),
        'test': lambda out: (CONFIG, checkpoint, '--out', out),
        'train': lambda out: (CONFIG, '--work-dir', out),
        'scenes-to-coco': lambda out: (out,),
    }


COMMANDS = ('get-flops', 'benchmark', 'calibrate-gate', 'fit-gate', 'transfer-gate', 'convert-checkpoint')
COMMANDS += ('publish-model', 'check-dataset', 'export')
FOLDER_COMMANDS = ('compare-gates', 'plot-tradeoff', 'visualize-gate', 'predict', 'test', 'train', 'scenes-to-coco')


@pytest.mark.parametrize('command', COMMANDS)
def test_an_unwritable_file_is_found_before_the_work(fail, call, command, tmp_path):
    (tmp_path / 'file').touch()
    for out, got in (
        (Path('/proc/x.pth'), 'wanted to write in'),
        (tmp_path / 'file' / 'x.pth', 'wanted a folder above it'),
        (tmp_path / ('x' * 251 + '.pth'), 'wanted a name of at most 255 bytes'),
    ):
        assert got in fail(command, *call[command](out))
    assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize('command', FOLDER_COMMANDS)
def test_an_unwritable_folder_is_found_before_the_work(fail, call, command, tmp_path, write_photos):
    write_photos(a_png=(40, 40))
    (tmp_path / 'file').touch()
    for out, got in (
        (Path('/proc/x'), 'wanted to write in'),
        (tmp_path / 'file', 'wanted a folder above it'),
        (tmp_path / ('x' * 300), 'wanted a name of at most 255 bytes'),
    ):
        assert got in fail(command, *call[command](out))
    assert {path.name for path in tmp_path.iterdir()} <= {'file', 'photos', 'work_dirs'}


@pytest.mark.parametrize('command', ['get-flops', 'benchmark', 'calibrate-gate', 'transfer-gate', 'convert-checkpoint'])
def test_inputs_are_never_written_over(fail, call, command, checkpoint, tmp_path):
    content = checkpoint.read_bytes()
    os.link(checkpoint, tmp_path / 'link.pth')
    for out in (checkpoint, tmp_path / 'link.pth'):
        assert 'wanted another file than the inputs' in fail(command, *call[command](out), '--overwrite')
    assert checkpoint.read_bytes() == content


def test_no_file_goes_unasked(fail, run, call, tmp_path):
    (tmp_path / 'x.json').write_text('precious')
    assert 'wanted a new file, got an existing one; --overwrite' in fail('get-flops', *call['get-flops']('x.json'))
    assert (tmp_path / 'x.json').read_text() == 'precious'
    run('get-flops', *call['get-flops']('x.json'), '--overwrite')
    assert json.loads((tmp_path / 'x.json').read_text())['num_images'] == 1
    (tmp_path / 'gates').mkdir()
    (tmp_path / 'gates' / 'gates.png').write_text('precious')
    assert 'wanted a new file' in fail('compare-gates', *call['compare-gates'](tmp_path / 'gates'))
    (tmp_path / 'gates' / 'tradeoff.png').write_text('precious')
    assert 'wanted a new file' in fail('plot-tradeoff', *call['plot-tradeoff'](tmp_path / 'gates'))


@pytest.mark.parametrize('command', ['visualize-gate', 'predict', 'test'])
def test_scores_beyond_the_memory_end_in_one_line(fail, call, command, tmp_path, write_photos, monkeypatch):
    write_photos(a_png=(40, 40))
    monkeypatch.setattr(memory, 'SMALL', 0)
    monkeypatch.setattr(memory, 'free_memory', lambda device: 10**4)
    few = [f'test_dataloader.{x}' for x in ('dataset.num_images=1', 'num_workers=0', 'persistent_workers=False')]
    message = fail(command, *call[command](tmp_path / 'out'), '--cfg-options', *few)
    assert message.startswith('error: image: wanted at most about ')


def test_pictures_of_one_stem(fail, run, call, write_photos, tmp_path):
    photos = write_photos(a_png=(40, 40), a_jpg=(50, 40))
    (photos / 'sub').mkdir()
    shutil.copy(photos / 'a.png', photos / 'sub' / 'a.png')
    contents = {path: path.read_bytes() for path in photos.rglob('*.*')}
    assert '3 scale maps' in run('visualize-gate', *call['visualize-gate']('out'))
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a.jpg.png', 'a.png.png', 'sub-a.png.png']
    assert 'wanted a new file' in fail('visualize-gate', *call['visualize-gate']('out'))
    run('visualize-gate', *call['visualize-gate']('out'), '--overwrite')
    for out in ('photos', photos / 'sub' / '..'):
        message = fail('visualize-gate', *call['visualize-gate'](out), '--overwrite')
        assert '--out-dir: wanted another folder than that of the images' in message
    assert {path: path.read_bytes() for path in photos.rglob('*.*')} == contents


def test_test_writes_beside_the_data_never_into_it(fail, trained, toy_config, toy_data, tmp_path):
    checkpoint = next(trained.glob('*.pth'))
    arguments = 'test', toy_config, checkpoint, '--work-dir', tmp_path / 'work'
    for option in ('--out', '--show-dir'):
        message = fail(*arguments, option, toy_data / 'labels', '--overwrite')
        assert 'wanted another folder than those of the inputs' in message
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / '0.png').touch()
    assert 'wanted a new or empty folder' in fail(*arguments, '--out', tmp_path / 'mine')


def test_names():
    paths = [Path('a/x.jpg'), Path('a/b/x.jpg'), Path('a/summary.jpg'), Path('a/Y.png'), Path('a/y.jpg')]
    names = ['x.jpg', 'b-x.jpg', 'summary.jpg', 'Y.png', 'y.jpg']
    assert unique_names(paths, reserved=['summary']) == names
    with pytest.raises(ValueError, match="wanted names that differ, got 'b-x.jpg' twice"):
        unique_names([*paths, Path('a/b-x.jpg'), Path('a/c/b-x.jpg')])
    assert unique_names([Path('x.jpg')]) == ['x']


def test_png(tmp_path):
    (tmp_path / 'a.png').write_bytes(png_bytes(Figure(figsize=(2, 1)), dpi=100))
    assert cv2.imread(str(tmp_path / 'a.png')).shape == (100, 200, 3)


def test_predictions_of_one_stem_and_beside_the_photos(fail, run, call, write_photos, tmp_path):
    photos = write_photos(a_png=(40, 40), a_jpg=(50, 40))
    contents = {path: path.read_bytes() for path in photos.iterdir()}
    run('predict', *call['predict']('out'))
    names = ['a.jpg.png', 'a.jpg_labels.png', 'a.png.png', 'a.png_labels.png']
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == names
    assert 'wanted a new file, got an existing one; --overwrite' in fail('predict', *call['predict']('out'))
    run('predict', *call['predict']('out'), '--overwrite')
    assert {path: path.read_bytes() for path in photos.iterdir()} == contents
    (photos / 'a.jpg').unlink()
    assert 'wanted another file than the inputs' in fail('predict', *call['predict'](photos), '--overwrite')
    shutil.copy(photos / 'a.png', photos / 'a_labels.png')
    assert "a_labels.png': wanted files that differ in name" in fail('predict', *call['predict']('new'))


def test_a_sheet_replaces_nothing(fail, run, call, tmp_path):
    run('check-dataset', *call['check-dataset']('sheet.png'))
    assert 'wanted a new file' in fail('check-dataset', *call['check-dataset']('sheet.png'))
    run('check-dataset', *call['check-dataset']('sheet.png'), '--overwrite')
    assert cv2.imread('sheet.png').std() > 10
