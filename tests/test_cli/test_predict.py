"""``msvit predict`` and what the page shows: the same result from a file and an array, budgets kept or refused."""

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, init_default_scope

from msvit_mm.cli.config import load_config
from msvit_mm.cli.models import load_trained_segmentor
from msvit_mm.studies.prediction import (
    budget_range,
    dense_inference,
    predict_image,
    predict_panels,
    prepare,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A Scenes network of random weights, its config kept as a run keeps it; its decisions differ."""
    cfg = load_config('msvit_upernet_scenes')
    text = cfg.pretty_text
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)
    meta = dict(cfg=text, dataset_meta=DATASETS.get('ScenesDataset').METAINFO, iter=2, epoch=0)
    path = tmp_path_factory.mktemp('predict') / 'scenes.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='module')
def model(checkpoint):
    return load_trained_segmentor(str(checkpoint))


@pytest.fixture
def photo(tmp_path):
    """An image whose channels differ much, as a file and as an RGB array."""
    image = np.random.default_rng(0).integers(0, 80, (70, 130, 3), np.uint8) + np.array([160, 60, 0], np.uint8)
    path = tmp_path / 'photo.png'
    cv2.imwrite(str(path), image[..., ::-1])
    return path, image


def test_file_and_rgb_array_give_the_same(model, photo):
    path, image = photo
    from_file, from_array = predict_image(model, path), predict_image(model, image)
    assert torch.equal(from_file.sample.seg_logits.data, from_array.sample.seg_logits.data)
    assert torch.equal(from_file.sample.gate_logits.data, from_array.sample.gate_logits.data)
    assert np.array_equal(from_file.image, from_array.image)
    swapped = predict_image(model, image[..., ::-1])
    assert not torch.equal(from_file.sample.seg_logits.data, swapped.sample.seg_logits.data)
    assert from_file.labels.shape == (70, 130)


def test_budget_is_kept_and_left_behind(model, photo):
    low, high = budget_range(model, photo[0])
    assert (low, high) == (5 * 9, 9 * 17)
    for budget in (low, 100, high):
        assert budget - 3 < predict_image(model, photo[1], budget).sample.num_tokens <= budget
    assert model.backbone.token_budget is None


@pytest.mark.parametrize('budget', [44, 154])
def test_budgets_out_of_range_are_refused(model, photo, budget):
    with pytest.raises(ValueError, match=rf'budget: wanted 45 \(all coarse\) to 153 \(all fine\) .* got {budget}'):
        predict_image(model, photo[1], budget)


@pytest.mark.parametrize('image', [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_arrays_that_are_no_rgb_are_refused(model, image):
    with pytest.raises(ValueError, match='wanted RGB of uint8'):
        predict_image(model, image)


def test_panels_beside_the_dense_network(model, photo):
    fewer, more = (predict_panels(model, photo[1], budget, repeats=1) for budget in (60, 153))
    assert fewer.num_tokens <= 60 < more.num_tokens == 153
    assert fewer.gmacs < more.gmacs
    assert fewer.dense_gmacs == more.dense_gmacs
    assert more.gmacs == pytest.approx(more.dense_gmacs, rel=0.05)  # the gate is all that it has more
    assert fewer.segmentation.shape == (70, 130, 3) and fewer.choices.std() > 10
    assert min(*fewer[-2:], *more[-2:]) > 0


def test_panels_at_all_fine_are_the_dense_network(model, photo):
    with torch.no_grad():
        inputs = model.data_preprocessor(prepare(model, photo[1]))['inputs']
        (dense,) = dense_inference(model, inputs)()
        with model.backbone.configured(gate=dict(type='FixedGate', scale='fine')) as backbone:
            fine = model._decode(backbone(inputs), [dict(img_shape=tuple(inputs.shape[-2:]))])
    assert torch.allclose(dense, fine, atol=1e-4)


def test_command_on_a_folder(run, checkpoint, write_photos, tmp_path):
    photos = write_photos(a_png=(96, 96), b_jpg=(70, 130))
    printed = run('predict', checkpoint, photos, '--out-dir', tmp_path / 'out', '--out', tmp_path / 'p.json')
    names = ['a.png', 'a_labels.png', 'b.png', 'b_labels.png']
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == names
    assert cv2.imread(str(tmp_path / 'out/b.png')).shape == (70, 3 * 130, 3)
    rows = json.loads((tmp_path / 'p.json').read_text())['images']
    assert [row['name'] for row in rows] == ['a', 'b']
    assert all(row['gmacs'] > 0 and row['time_ms'] > 0 for row in rows)
    assert 'GMACs' in printed and 'ball' in printed


def test_command_on_a_video(run, checkpoint, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / 'clip.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (96, 64))
    if not writer.isOpened():
        pytest.skip('cv2 writes no MJPG here')
    for i in range(4):
        writer.write(np.full((64, 96, 3), 60 * i, np.uint8))
    writer.release()
    run('predict', checkpoint, tmp_path / 'clip.avi', '--max-frames', 3, '--budget', 60, '--out-dir', tmp_path / 'out')
    assert sorted(path.name for path in (tmp_path / 'out').glob('*[0-9].png')) == [
        f'clip_0000{i}.png' for i in range(3)
    ]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('CHECKPOINT', 'PHOTO', '--budget', 3), r"wanted 45 \(all coarse\) to 153 .* for '.*photo.png', got 3"),
        (('CHECKPOINT', 'absent'), "images 'absent': wanted an image file or a folder"),
        (('PHOTO', 'PHOTO'), 'photo.png'),
    ],
)
def test_command_refuses_before_it_writes(fail, checkpoint, photo, tmp_path, arguments, message):
    words = dict(CHECKPOINT=checkpoint, PHOTO=photo[0])
    got = fail('predict', *(words.get(word, word) for word in arguments), '--out-dir', tmp_path / 'out')
    assert re.search(message, got), got
    assert not (tmp_path / 'out').exists()


def test_checkpoint_without_config_is_named_and_config_helps(fail, run, model, photo, tmp_path):
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'bare.pth')
    assert 'with its config in' in fail('predict', tmp_path / 'bare.pth', photo[0])
    words = ('--config', 'msvit_upernet_scenes', '--out-dir', tmp_path / 'out')
    run('predict', tmp_path / 'bare.pth', photo[0], *words)
    assert (tmp_path / 'out/photo.png').is_file()


def test_the_snippet_of_the_docs(checkpoint, write_photos):
    photo = write_photos(photo_png=(96, 96)) / 'photo.png'
    text = (ROOT / 'docs' / 'tasks.md').read_text().split('## From Python\n')[1]
    code = re.search(r'```python\n(.*?)```', text, flags=re.DOTALL)[1]
    code = code.replace('CHECKPOINT', str(checkpoint)).replace('photo.jpg', str(photo))
    names: dict = {}
    exec(code, names)
    assert names['prediction'].sample.num_tokens == 90 == (names['low'] + names['high']) / 2
    assert names['labels'].shape == (96, 96) and len(names['names']) == 10
    assert names['segmentation'].shape == (96, 96, 3) and names['choices'].ndim == 3


def test_what_is_read_is_never_written(fail, checkpoint, write_photos):
    photos = write_photos(a_png=(96, 96))
    photo = photos / 'a.png'
    before = photo.read_bytes()
    for out in (photo, photos / 'x' / 'a.png'):
        got = fail('predict', checkpoint, photo, '--out', out, '--out-dir', photos / 'x', '--overwrite')
        assert 'wanted another file than the inputs' in got or 'wanted files that differ in name' in got
    assert photo.read_bytes() == before and not (photos / 'x').exists()


def test_one_image_that_cannot_be_predicted_does_not_lose_the_others(fail, checkpoint, write_photos, tmp_path):
    photos = write_photos(a_png=(96, 96), b_png=(3, 160))
    got = fail('predict', checkpoint, photos, '--out-dir', tmp_path / 'out', '--out', tmp_path / 'p.json')
    assert "image 'b': RuntimeError: " in got
    assert [row['name'] for row in json.loads((tmp_path / 'p.json').read_text())['images']] == ['a']


def test_frames_are_those_of_videos(fail, checkpoint, photo):
    assert '--max-frames: wanted a video, got' in fail('predict', checkpoint, photo[0], '--max-frames', 1)


def test_images_are_prepared_as_for_validation_where_there_is_no_test(model, photo):
    cfg = copy.deepcopy(model.cfg)
    twin = SimpleNamespace(cfg=cfg)
    cfg.test_dataloader = None
    assert torch.equal(prepare(twin, photo[1])['inputs'][0], prepare(model, photo[1])['inputs'][0])
    cfg.val_dataloader = None
    with pytest.raises(ValueError, match='config: wanted a pipeline of its test or validation data'):
        prepare(twin, photo[1])
