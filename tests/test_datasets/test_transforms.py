"""Laws of the transforms: labels are checked, crops come from the image, packed crops travel with the sample."""

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image

from msvit_mm.datasets import CheckLabels, GateCrops, PackGatedSegInputs


@pytest.fixture(autouse=True)
def numpy_seed():
    np.random.seed(0)


def numbered_image(height, width):
    """Image whose pixels tell their own place, so that crops can be found again."""
    rows, columns = np.indices((height, width))
    return np.stack([rows + 1, columns + 1, np.full_like(rows, 7)], axis=-1).astype(np.uint8)


def test_valid_labels_pass_unchanged():
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    results = CheckLabels(num_classes=3)(dict(gt_seg_map=labels))
    assert results['gt_seg_map'] is labels


@pytest.mark.parametrize(('value', 'dtype'), [(3, np.uint8), (254, np.uint8), (-1, np.int64)])
def test_wrong_label_names_file_value_and_range(value, dtype):
    results = dict(gt_seg_map=np.array([[0, value, 255]], dtype), seg_map_path='annotations/a.png')
    with pytest.raises(ValueError, match=rf"wanted labels in \[0, 2\] or 255, got \[{value}\] in 'annotations/a.png'"):
        CheckLabels(num_classes=3)(results)


def test_ignore_index_is_the_only_exception():
    results = dict(gt_seg_map=np.array([[0, 255]], np.uint8))
    with pytest.raises(ValueError, match=r'or 9, got \[255\]'):
        CheckLabels(num_classes=3, ignore_index=9)(results)
    CheckLabels(num_classes=3, ignore_index=9)(dict(gt_seg_map=np.array([[0, 9]], np.uint8)))


def test_samples_without_labels_pass():
    assert CheckLabels(num_classes=3)(dict(img=1)) == dict(img=1)


def test_crops_are_windows_of_the_image_flipped_half_of_the_time():
    img = numbered_image(40, 60)
    crops = GateCrops(num_crops=200, crop_size=(16, 24))(dict(img=img))['gate_crops']
    assert (crops.shape, crops.dtype) == ((200, 16, 24, 3), np.uint8)
    flipped = crops[:, 0, 0, 1] > crops[:, 0, -1, 1]
    places = set()
    for crop, flip in zip(crops, flipped, strict=True):
        crop = crop[:, ::-1] if flip else crop
        top, left = int(crop[0, 0, 0]) - 1, int(crop[0, 0, 1]) - 1
        assert np.array_equal(crop, img[top : top + 16, left : left + 24])
        places.add((top, left))
    assert 0.35 < flipped.mean() < 0.65
    assert len(places) > 150


def test_crops_reach_every_border():
    crops = GateCrops(num_crops=200, crop_size=(16, 24))(dict(img=numbered_image(18, 26)))['gate_crops']
    assert (crops[..., 0].min(), crops[..., 0].max()) == (1, 18)
    assert (crops[..., 1].min(), crops[..., 1].max()) == (1, 26)


def test_image_smaller_than_the_crop_is_padded_below_and_right():
    img = numbered_image(10, 40)
    for crop in GateCrops(num_crops=5, crop_size=(16, 24))(dict(img=img))['gate_crops']:
        assert (crop[:10] > 0).all()
        assert (crop[10:] == 0).all()
    for crop in GateCrops(num_crops=5, crop_size=(8, 48))(dict(img=img))['gate_crops']:
        assert (crop[:, :40] > 0).all()
        assert (crop[:, 40:] == 0).all()


def test_crops_follow_numpys_seed_and_leave_the_image_alone():
    img = numbered_image(40, 60)
    before, crops = img.copy(), []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        crops.append(GateCrops(num_crops=3, crop_size=(16, 24))(dict(img=img))['gate_crops'])
    assert np.array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], crops[2])
    assert np.array_equal(img, before)


def test_packed_crops_are_a_field_of_the_sample():
    img = numbered_image(40, 60)
    labels = np.zeros((40, 60), np.uint8)
    init_default_scope('mmseg')
    pipeline = Compose([dict(type='GateCrops', num_crops=2, crop_size=(16, 24)), dict(type='PackGatedSegInputs')])
    results = dict(img=img, gt_seg_map=labels, img_shape=(40, 60), ori_shape=(40, 60))
    packed = pipeline(results)
    sample = packed['data_samples']
    assert torch.equal(packed['inputs'], torch.from_numpy(img.transpose(2, 0, 1)))
    assert sample.gt_sem_seg.data.shape == (1, 40, 60)
    assert sample.gate_crops.dtype == torch.uint8
    assert np.array_equal(sample.gate_crops.permute(0, 2, 3, 1).numpy(), results['gate_crops'])
    assert 'gate_crops' in sample
    assert sample.to('meta').gate_crops.device.type == 'meta'
    assert sample.gate_crops.device.type == 'cpu'


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: CheckLabels(num_classes=0), 'num_classes: wanted at least 1, got 0'),
        (lambda: GateCrops(num_crops=0, crop_size=(8, 8)), 'num_crops: wanted at least 1, got 0'),
        (lambda: GateCrops(num_crops=1, crop_size=(8,)), r'crop_size: wanted \(height, width\).*got \(8,\)'),
        (lambda: GateCrops(num_crops=1, crop_size=(8, 0)), r'crop_size: .*at least 1, got \(8, 0\)'),
        (
            lambda: GateCrops(num_crops=1, crop_size=(8, 8))(dict(img=np.zeros((9, 9, 3), np.float32))),
            'wanted an image of uint8, got float32',
        ),
        (
            lambda: PackGatedSegInputs()(dict(img=np.zeros((9, 9, 3), np.uint8))),
            r"wanted results\['gate_crops'\] .* got the keys \['img'\]",
        ),
    ],
)
def test_bad_input_says_wanted_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize('scope', ['mmseg', 'mmpretrain'])
@pytest.mark.parametrize(
    'transform', [dict(type='CheckLabels', num_classes=2), dict(type='GateCrops', num_crops=1, crop_size=[8, 16])]
)
def test_types_build_without_prefix_in_every_scope(scope, transform):
    init_default_scope(scope)
    assert type(TRANSFORMS.build(transform)).__name__ == transform['type']


# Labels in disguise


def load_labels(folder, mask, image=None, exif=None, num_classes=3):
    """What the usual pipeline makes of a mask and an image in files."""
    Image.fromarray(mask).save(folder / 'mask.png')
    photo = Image.fromarray(np.zeros((*mask.shape[:2], 3), np.uint8) if image is None else image)
    tags = Image.Exif()
    if exif:
        tags[0x0112] = exif
    photo.save(folder / 'photo.jpg', exif=tags)
    steps = [dict(type=name) for name in ('LoadImageFromFile', 'LoadAnnotations')]
    pipeline = Compose([*steps, dict(type='CheckLabels', num_classes=num_classes)])
    info = dict(img_path=str(folder / 'photo.jpg'), seg_map_path=str(folder / 'mask.png'), seg_fields=[])
    return pipeline(info | dict(reduce_zero_label=False))['gt_seg_map']


def test_labels_in_disguise_name_their_file(tmp_path):
    def check_fails(message, *args, **kwargs):
        with pytest.raises(ValueError, match=message + ".*mask.png'"):
            load_labels(tmp_path, *args, **kwargs)

    mask = np.zeros((20, 30), np.uint8)
    mask[5] = 2
    assert np.array_equal(load_labels(tmp_path, mask), mask)
    assert np.array_equal(load_labels(tmp_path, mask.astype(np.uint16)), mask)
    check_fails('wanted labels up to 255, which loading keeps, got 258 in', mask.astype(np.uint16) + 256)
    check_fails(r'wanted a mask of one channel, got shape \(20, 30, 3\) in', np.stack([mask] * 3, -1))
    turned = dict(image=np.zeros((20, 30, 3), np.uint8), exif=6)
    check_fails(r'of the size of its image .turned by its EXIF tag\?., \(30, 20\), got \(20, 30\) in', mask, **turned)
    assert load_labels(tmp_path, mask.T.copy(), **turned).shape == (30, 20)
    check_fails('wanted an image that no EXIF tag turns, got orientation 3 in', mask, exif=3)
    check_fails('wanted an image that no EXIF tag turns, got orientation 8 in', mask[:, :20].copy(), exif=8)
    binary = (mask > 0).astype(np.uint8) * 255
    check_fails('got 0 and 255 alone, which counts for nothing, in', binary, num_classes=2)
    load_labels(tmp_path, binary, num_classes=3)
    check_fails('wanted a mask of the size of its image', mask, np.zeros((21, 30, 3), np.uint8))


def test_an_ignored_image_is_named_once(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('msvit_mm.datasets.transforms.print_log', lambda message, **words: said.append(message))
    check = CheckLabels(num_classes=3)
    for name in ('a.png', 'a.png', *(f'{i}.png' for i in range(9))):
        check(dict(gt_seg_map=np.full((2, 3), 255, np.uint8), seg_map_path=f'scenes://{name}'))
    assert len(said) == 5 and 'all pixels are ignored in ' in said[0] and 'a.png' in said[0]


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_crops_keep_the_channels(channels):
    img = np.random.randint(0, 255, (20, 30, channels), np.uint8)
    crops = GateCrops(num_crops=2, crop_size=(8, 8))(dict(img=img))['gate_crops']
    assert crops.shape == (2, 8, 8, channels)
    assert GateCrops(num_crops=1, crop_size=(8, 8))(dict(img=img[..., 0]))['gate_crops'].shape == (1, 8, 8, 1)
