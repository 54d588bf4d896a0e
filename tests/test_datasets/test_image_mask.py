"""Own data: pairs by name, masks of every kind that is one number a pixel, and errors that name what is wrong."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

PREFIX = dict(img_path='images', seg_map_path='masks')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
LABELS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


@pytest.fixture
def root(tmp_path):
    for folder in PREFIX.values():
        (tmp_path / folder).mkdir()
    return tmp_path


def write(root, name='a', labels=LABELS, suffix='.jpg', mask_suffix='.png', mode='L', ending=''):
    cv2.imwrite(str(root / 'images' / f'{name}{suffix}'), np.full((*labels.shape, 3), 90, np.uint8))
    mask = Image.fromarray(labels)
    if mode == 'P':
        mask.putpalette(np.random.default_rng(0).integers(0, 255, 768, np.uint8).tobytes())
    elif mode == '1':
        mask = Image.fromarray(labels.astype(bool))
    elif mode == 'RGB':
        mask = mask.convert('RGB')
    mask.save(root / 'masks' / f'{name}{ending}{mask_suffix}')


def build(root, classes=('ground', 'thing', 'sky'), **words):
    config = dict(type='ImageMaskDataset', data_root=str(root), data_prefix=PREFIX, pipeline=PIPELINE)
    return DATASETS.build(dict(config, metainfo=dict(classes=classes), **words))


@pytest.mark.parametrize('suffix', ['.jpg', '.JPEG', '.png', '.bmp', '.tif', '.webp'])
@pytest.mark.parametrize('mask_suffix', ['.png', '.bmp', '.tiff'])
def test_suffixes_and_their_case_do_not_matter(root, suffix, mask_suffix):
    write(root, suffix=suffix, mask_suffix=mask_suffix)
    (sample,) = build(root)
    assert np.array_equal(sample['gt_seg_map'], LABELS)
    assert sample['img'].shape == (2, 3, 3)


@pytest.mark.parametrize(('mode', 'labels'), [('L', LABELS), ('P', LABELS), ('1', LABELS % 2)])
def test_grey_palette_and_black_and_white_masks_are_their_numbers(root, mode, labels):
    write(root, labels=labels, mode=mode)
    (sample,) = build(root)
    assert np.array_equal(sample['gt_seg_map'], labels)


def test_foreground_of_255_becomes_class_1(root):
    write(root, labels=np.array([[0, 255], [255, 0]], np.uint8))
    (sample,) = build(root, classes=('ground', 'thing'), foreground_255=True)
    assert sample['gt_seg_map'].tolist() == [[0, 1], [1, 0]]


def test_binary_masks_of_255_are_refused_without_the_word(root):
    write(root, labels=np.array([[0, 255], [255, 0]], np.uint8))
    with pytest.raises(ValueError, match=r'got 0 and 255, .* set foreground_255=True'):
        build(root, classes=('ground', 'thing'))
    write(root, 'b', labels=np.array([[0, 1], [255, 0]], np.uint8))  # 255 beside both classes is what is ignored
    assert len(build(root, classes=('ground', 'thing'))) == 2


def test_every_fifth_image_is_for_validation(root):
    for i in range(11):
        write(root, f'{i:02d}')
    names = {
        split: [Path(d.get_data_info(i)['img_path']).stem for i in range(len(d))]
        for split in ('train', 'val', None)
        for d in [build(root, split=split)]
    }
    assert names['val'] == ['00', '05', '10']
    assert sorted(names['train'] + names['val']) == names[None]


def test_mask_ending_and_folders_within(root):
    for folder in PREFIX.values():
        (root / folder / 'day').mkdir()
    write(root, 'day/a', ending='_mask')
    (sample,) = build(root, mask_ending='_mask')
    assert sample['seg_map_path'].endswith('masks/day/a_mask.png')


def test_images_alone(root):
    write(root)
    config = dict(type='ImageMaskDataset', data_root=str(root), data_prefix=dict(img_path='images'))
    (sample,) = DATASETS.build(dict(config, pipeline=PIPELINE[:1]))
    assert 'seg_map_path' not in sample


def test_all_unmatched_files_stand_in_one_error(root):
    for name in 'abcdef':
        write(root, name)
    (root / 'masks/b.png').unlink()
    (root / 'images/d.jpg').unlink()
    wanted = r'got 1 images without a mask \(b.jpg\) and 1 masks without an image \(d.png\); folders '
    with pytest.raises(FileNotFoundError, match=wanted):
        build(root)
    for name in 'acef':
        (root / f'masks/{name}.png').rename(root / f'masks/{name}_x.png')
    with pytest.raises(FileNotFoundError, match=r'got 5 images without a mask \(a.jpg, b.jpg, c.jpg and 2 more\)'):
        build(root)


@pytest.mark.parametrize(
    ('break_it', 'message'),
    [
        (lambda root: (root / 'masks').rename(root / 'labels'), r"wanted masks in '.*masks', got no such folder"),
        (lambda root: (root / 'images/a.jpg').rename(root / 'images/a.heic'), r'wanted images .* got 1 of .heic'),
        (lambda root: (root / 'masks/a.png').rename(root / 'masks/a.jpg'), r'keep their values .* got 1 of .jpg \(a'),
        (lambda root: write(root, suffix='.png'), r'wanted one file of a name in .*, got several \(a\)'),
        (lambda root: write(root, mode='RGB'), r'wanted one channel .* got an image of mode RGB'),
    ],
)
def test_errors_of_files(root, break_it, message):
    write(root)
    break_it(root)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        build(root)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(split='test'), "split: wanted one of .* got 'test'"),
        (dict(split='val', val_every=1), 'val_every: wanted at least 2, got 1'),
    ],
)
def test_errors_of_words(root, words, message):
    write(root)
    with pytest.raises(ValueError, match=message):
        build(root, **words)


def test_linked_folders_are_read_once(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    for folder in ('images', 'masks'):
        (elsewhere / folder).mkdir()
    write(elsewhere, 'b')
    write(root, 'a')
    for folder in ('images', 'masks'):
        (root / folder / 'day').symlink_to(elsewhere / folder)
        (root / folder / 'again').symlink_to(root / folder)
    dataset = build(root)
    assert [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))] == ['a.jpg', 'b.jpg']
