"""CamVid's folder checks on made-up files, and the real data sets' base configs on the real files that are at hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from msvit_mm.datasets import CamVidDataset

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs/_base_/datasets'
PREFIX = dict(img_path='images/train', seg_map_path='annotations/train')


def find_data(*folders):
    """First folder that exists, relative to the repository's root; skips the test by name if there is none."""
    for folder in folders:
        if (ROOT / folder).is_dir():
            return str(ROOT / folder)
    pytest.skip(f'none of {folders} exists')


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


@pytest.fixture
def tiny_root(tmp_path):
    """CamVid of two images, 24x36 pixels, in a folder of its own."""
    for name in ('b', 'a'):
        for folder, suffix, array in (
            ('images', 'jpg', np.full((24, 36, 3), 90, np.uint8)),
            ('annotations', 'png', np.full((24, 36), 10, np.uint8)),
        ):
            (tmp_path / folder / 'train').mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / 'train' / f'{name}.{suffix}'), array)
    return tmp_path


def test_pairs_images_with_annotations_in_order(tiny_root):
    dataset = CamVidDataset(
        data_root=str(tiny_root),
        data_prefix=PREFIX,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    assert [Path(dataset.get_data_info(i)['img_path']).name for i in range(2)] == ['a.jpg', 'b.jpg']
    assert (dataset[1]['gt_seg_map'] == 10).all()
    assert Path(dataset[1]['seg_map_path']).name == 'b.png'


def test_eleven_classes_with_distinct_colours():
    meta = CamVidDataset.METAINFO
    assert len(meta['classes']) == len({tuple(colour) for colour in meta['palette']}) == 11


@pytest.mark.parametrize(('gone', 'suffix'), [('images', 'jpg'), ('annotations', 'png')])
def test_missing_folder_is_named(tiny_root, gone, suffix):
    (tiny_root / gone).rename(tiny_root / 'elsewhere')
    with pytest.raises(FileNotFoundError, match=rf"wanted \*\.{suffix} files in '.*{gone}/train', got no such folder"):
        CamVidDataset(data_root=str(tiny_root), data_prefix=PREFIX)


def test_empty_folder_is_named(tiny_root):
    for path in (tiny_root / 'images/train').iterdir():
        path.rename(path.with_suffix('.jpeg'))
    with pytest.raises(FileNotFoundError, match=r"wanted \*\.jpg files in '.*images/train', got 0 of them"):
        CamVidDataset(data_root=str(tiny_root), data_prefix=PREFIX)


def test_missing_annotation_is_counted_and_named(tiny_root):
    (tiny_root / 'annotations/train/b.png').unlink()
    with pytest.raises(FileNotFoundError, match=r"each of 2 images, got 1; the first missing is '.*b\.png'"):
        CamVidDataset(data_root=str(tiny_root), data_prefix=PREFIX)


def test_wrong_label_is_found_by_the_config_of_camvid(tiny_root):
    cv2.imwrite(str(tiny_root / 'annotations/train/a.png'), np.full((24, 36), 11, np.uint8))
    cfg = Config.fromfile(CONFIGS / 'camvid_160x224.py')
    dataset = DATASETS.build(cfg.train_dataloader.dataset | dict(data_root=str(tiny_root)))
    with pytest.raises(ValueError, match=r"wanted labels in \[0, 10\] or 255, got \[11\] in '.*a\.png'"):
        dataset[0]


def test_camvid_config_yields_training_samples_with_gate_crops():
    root = find_data('data/camvid', '../shared/data/camvid')
    cfg = Config.fromfile(CONFIGS / 'camvid_160x224.py')
    dataset = DATASETS.build(cfg.train_dataloader.dataset | dict(data_root=root))
    assert len(dataset) == 367
    assert all(side % 16 == 0 for side in cfg.crop_size)
    for index in (0, 200):
        sample = dataset[index]
        assert sample['data_samples'].gate_crops.shape == (3, 3, *cfg.crop_size)
        assert sample['data_samples'].gate_crops.float().std() > 5
        height, width = sample['inputs'].shape[1:]
        assert height <= 160
        assert width <= 224
        assert sample['data_samples'].gt_sem_seg.shape == (height, width)


def test_camvid_config_validates_at_half_resolution_against_full_labels():
    root = find_data('data/camvid', '../shared/data/camvid')
    cfg = Config.fromfile(CONFIGS / 'camvid_160x224.py')
    dataset = DATASETS.build(cfg.val_dataloader.dataset | dict(data_root=root))
    assert len(dataset) == 101
    sample = dataset[0]
    assert sample['inputs'].shape == (3, 180, 240)
    assert sample['data_samples'].gt_sem_seg.shape == sample['data_samples'].ori_shape == (360, 480)


@pytest.mark.parametrize(
    ('name', 'folder', 'num_images'),
    [
        ('ade20k_512x512', '../shared/data/ade20k_sample', 3),
        ('cityscapes_512x1024', '../shared/data/cityscapes_sample', 1),
    ],
)
def test_published_data_sets_yield_samples(name, folder, num_images):
    root = find_data(folder)
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    prefix = cfg.val_dataloader.dataset.data_prefix
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        dataset = DATASETS.build(loader.dataset | dict(data_root=root, data_prefix=prefix))
        assert len(dataset) == num_images
        assert len(dataset.metainfo['classes']) == cfg.num_classes
        for index in range(num_images):
            labels = dataset[index]['data_samples'].gt_sem_seg.data
            assert (labels != 255).any()
            assert torch.all((labels < cfg.num_classes) | (labels == 255))


WITH_TTA = sorted(path for path in CONFIGS.glob('*.py') if 'tta_pipeline =' in path.read_text())


@pytest.mark.parametrize('path', WITH_TTA, ids=lambda path: path.stem)
def test_test_time_pipeline_builds_and_yields_two_flips_per_scale(path):
    cfg = Config.fromfile(path)
    roots = {
        'CamVidDataset': ('data/camvid', '../shared/data/camvid'),
        'ADE20KDataset': ('../shared/data/ade20k_sample',),
        'CityscapesDataset': ('../shared/data/cityscapes_sample',),
    }
    dataset = cfg.val_dataloader.dataset
    if dataset.type in roots:
        dataset.data_root = find_data(*roots[dataset.type])
    dataset.pipeline = cfg.tta_pipeline
    samples = DATASETS.build(dataset)[0]
    assert len(samples['inputs']) == 2 * len(cfg.get('img_ratios', [1]))
    assert torch.equal(samples['inputs'][0], samples['inputs'][1].flip(-1))
    assert {sample.ori_shape for sample in samples['data_samples']} == {samples['data_samples'][0].ori_shape}


def test_every_base_config_of_a_data_set_was_found():
    assert len(list(CONFIGS.glob('*.py'))) >= 6
    assert len(WITH_TTA) >= 4  # all for segmentation
