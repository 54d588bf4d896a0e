"""Laws of the scenes: pure functions of their address, splits apart, every class there, detail in few regions."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from msvit_mm.datasets import ScenesDataset
from msvit_mm.datasets.scenes import SPLITS, draw_scene, scene_rng

LOADING = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
BASE = Path(__file__).parents[2] / 'configs/_base_/datasets/scenes_96x96.py'


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


def draw(index, split='train', seed=0, size=(96, 96)):
    return draw_scene(scene_rng(seed, split, index), size)


def stack_labels(split, num_images, size=(96, 96)):
    return np.stack([draw(index, split, size=size)[1] for index in range(num_images)])


def test_scene_has_documented_types_and_shapes():
    img, labels = draw(0, size=(64, 96))
    assert (img.shape, img.dtype) == ((64, 96, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((64, 96), np.uint8)


@pytest.mark.parametrize('size', [(32, 32), (33, 150), (96, 64)])
def test_any_size_is_drawn_with_labels_in_range(size):
    assert stack_labels('train', 100, size).max() < len(ScenesDataset.METAINFO['classes'])


def test_every_class_occurs_and_small_ones_in_most_scenes():
    labels = stack_labels('val', 60)
    classes = ScenesDataset.METAINFO['classes']
    assert set(np.unique(labels)) == set(range(len(classes)))
    for name in ScenesDataset.METAINFO['small_classes']:
        assert (labels == classes.index(name)).any((1, 2)).mean() > 0.5


def test_palette_and_small_classes_fit_the_classes():
    meta = ScenesDataset.METAINFO
    assert len({tuple(colour) for colour in meta['palette']}) == len(meta['classes'])
    assert set(meta['small_classes']) < set(meta['classes'])


def test_detail_is_local():
    num_images = 200
    labels = stack_labels('train', num_images)
    # (n, 6 * 16, 6 * 16) -> (n, 6, 6, 256)
    regions = labels.reshape(num_images, 6, 16, 6, 16).transpose(0, 1, 3, 2, 4).reshape(num_images, 6, 6, 256)
    small = [ScenesDataset.METAINFO['classes'].index(name) for name in ScenesDataset.METAINFO['small_classes']]
    assert 0.35 < (regions.max(-1) > regions.min(-1)).mean() < 0.50
    assert 0.12 < np.isin(regions, small).any(-1).mean() < 0.25


def test_a_small_class_has_its_colour_and_an_area_any():
    colours = {}
    for index in range(100):
        img, labels = draw(index)
        for label in np.unique(labels):
            colours.setdefault(ScenesDataset.METAINFO['classes'][label], []).append(img[labels == label].mean(0))
    spread = {name: np.std(values, axis=0).mean() for name, values in colours.items()}
    small = ScenesDataset.METAINFO['small_classes']
    assert max(spread[name] for name in small) < min(spread[name] for name in ('plain', 'noise', 'stripes', 'clouds'))
    means = [np.mean(colours[name], axis=0) for name in small]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(means, 2)) > 100


def test_seed_split_and_index_each_change_the_scene():
    scenes = [draw(i, split, seed)[0].tobytes() for seed, split, i in itertools.product((0, 1), SPLITS, (0, 1))]
    assert len(set(scenes)) == 8


def test_splits_share_no_generator_whatever_seed_and_index():
    # the extremes of the range: a number of more than 32 bits would spill into its neighbour's word
    numbers = [0, 1, 2, 2**16, 2**32 - 1]
    states = {
        split: {
            tuple(scene_rng(seed, split, index).bit_generator.seed_seq.generate_state(4))
            for seed, index in itertools.product(numbers, numbers)
        }
        for split in SPLITS
    }
    assert all(len(found) == len(numbers) ** 2 for found in states.values())
    assert not states['train'] & states['val']


def test_item_does_not_depend_on_order_length_or_earlier_random_numbers():
    long = ScenesDataset(num_images=9, pipeline=LOADING)
    forward = [long[index] for index in range(4)]
    np.random.seed(3)
    short = ScenesDataset(num_images=4, pipeline=LOADING)
    for index in (2, 0, 3, 1):
        item = short[index]
        assert item['img_path'] == forward[index]['img_path']
        assert np.array_equal(item['img'], forward[index]['img'])
        assert np.array_equal(item['gt_seg_map'], forward[index]['gt_seg_map'])


def test_loading_returns_what_was_drawn():
    item = ScenesDataset(num_images=6, split='val', seed=5, size=(64, 96), pipeline=LOADING)[5]
    img, labels = draw(5, 'val', 5, (64, 96))
    assert np.array_equal(item['img'], img)
    assert np.array_equal(item['gt_seg_map'], labels)
    assert item['img_shape'] == item['ori_shape'] == (64, 96)
    assert item['seg_fields'] == ['gt_seg_map']


@pytest.mark.parametrize('serialize_data', [True, False])
def test_dataset_survives_pickling(serialize_data):
    dataset = ScenesDataset(num_images=3, serialize_data=serialize_data, pipeline=LOADING)
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == 3
    assert np.array_equal(copy[2]['img'], dataset[2]['img'])


def test_indices_and_a_subset_of_classes_work_as_in_the_host():
    dataset = ScenesDataset(num_images=8, indices=[6], metainfo=dict(classes=('plain', 'noise')), pipeline=LOADING)
    assert dataset[0]['img_path'].endswith('/00006.png')
    assert len(dataset) == 1
    assert set(np.unique(dataset[0]['gt_seg_map'])) <= {0, 1, 255}


@pytest.mark.parametrize('num_workers', [0, 2])
def test_dataloader_gives_the_same_images_for_any_number_of_workers(num_workers):
    loader = Runner.build_dataloader(
        dict(
            batch_size=2,
            num_workers=num_workers,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='ScenesDataset', num_images=5, pipeline=[*LOADING, dict(type='PackSegInputs')]),
        )
    )
    images = [image for batch in loader for image in batch['inputs']]
    assert len(images) == 5
    for index, image in enumerate(images):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), draw(index)[0])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_images=0), 'num_images: wanted at least 1, got 0'),
        (dict(num_images=1, size=(96, 31)), r'size: .* at least 32 pixels each, got \(96, 31\)'),
        (dict(num_images=1, size=(96,)), r'size: wanted \(height, width\) .*, got \(96,\)'),
        (dict(num_images=1, split='test'), r"split: wanted one of \('train', 'val'\), got 'test'"),
        (dict(num_images=1, seed=-1), r'seed: wanted a number in \[0, 2\*\*32\), got -1'),
        (dict(num_images=1, seed=2**32), r'seed: wanted .* got 4294967296'),
    ],
)
def test_bad_arguments_say_wanted_and_got(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScenesDataset(**arguments)


@pytest.mark.parametrize(
    ('address', 'message'),
    [
        ('scenes://val/96x96/00000.png', r"wanted scenes://<split>/.*, got 'scenes://val/96x96/00000.png'"),
        ('scenes://test/seed0/96x96/00000.png', r"split: wanted .* got 'test'"),
        ('scenes://val/seed0/96x8/00000.png', r'size: wanted .* got \(96, 8\)'),
    ],
)
def test_bad_addresses_say_wanted_and_got(address, message):
    with pytest.raises(ValueError, match=message):
        fileio.get(address)


def test_inferencers_can_use_the_test_pipeline():
    # what MMSegInferencer makes of it
    pipeline = [step for step in Config.fromfile(BASE).test_pipeline if step.type != 'LoadAnnotations']
    pipeline[0].type = 'InferencerLoader'
    for single_input in ('scenes://val/seed0/64x96/00003.png', draw(3, 'val', size=(64, 96))[0]):
        packed = Compose(pipeline)(single_input)
        assert np.array_equal(packed['inputs'].permute(1, 2, 0).numpy(), draw(3, 'val', size=(64, 96))[0])


def test_base_config_builds_and_its_splits_differ():
    cfg = Config.fromfile(BASE)
    train, val = (DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader))
    assert (len(train), len(val)) == (4000, 256)
    assert len(train.metainfo['classes']) == cfg.num_classes
    sample = val[0]
    assert sample['inputs'].shape == (3, 96, 96)
    assert sample['data_samples'].gt_sem_seg.data.shape == (1, 96, 96)
    assert sample['data_samples'].ori_shape == (96, 96)
    assert not {train.get_data_info(i)['img_path'] for i in range(256)} & {
        val.get_data_info(i)['img_path'] for i in range(256)
    }
