"""Labels of presence are the shapes that the scene's label map shows."""

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope

from msvit_mm.datasets import ScenesDataset, ScenesPresenceDataset
from msvit_mm.datasets.scenes import draw_scene, scene_rng

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]


@pytest.fixture(autouse=True)
def mmpretrain_scope():
    init_default_scope('mmpretrain')


def test_classes_are_the_shapes_of_the_scenes():
    names, shapes = ScenesDataset.METAINFO['classes'], ScenesPresenceDataset.METAINFO
    assert shapes['classes'] == names[4:] == ('ball', 'box', 'triangle', 'cross', 'disc', 'square')
    assert shapes['palette'] == ScenesDataset.METAINFO['palette'][4:]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_labels_are_the_shapes_that_are_drawn(split):
    dataset = ScenesPresenceDataset(num_images=30, split=split, seed=3, size=(64, 96), pipeline=PIPELINE)
    names = ScenesDataset.METAINFO['classes']
    for index in range(30):
        sample = dataset[index]
        img, labels = draw_scene(scene_rng(3, split, index), (64, 96))
        drawn = [names[label] for label in np.unique(labels) if names[label] in dataset.metainfo['classes']]
        assert [dataset.metainfo['classes'][label] for label in sample['data_samples'].gt_label] == drawn
        assert np.array_equal(sample['inputs'].permute(1, 2, 0).numpy(), img)


def test_every_shape_is_present_in_some_scenes_and_absent_in_others():
    dataset = ScenesPresenceDataset(num_images=60, split='val')
    counts = np.bincount(np.concatenate([dataset.get_data_info(i)['gt_label'] for i in range(60)]), minlength=6)
    assert len(counts) == 6
    assert ((counts > 5) & (counts < 55)).all()


def test_samples_of_unequal_label_counts_batch_in_the_host():
    dataset = DATASETS.build(dict(type='ScenesPresenceDataset', num_images=8, pipeline=PIPELINE))
    batch = pseudo_collate([dataset[i] for i in range(8)])
    assert len({len(sample.gt_label) for sample in batch['data_samples']}) > 1
    assert all(sample.gt_label.dtype == torch.long for sample in batch['data_samples'])


def test_wrong_arguments_are_those_of_the_scenes():
    with pytest.raises(ValueError, match=r"split: wanted one of \('train', 'val'\), got 'test'"):
        ScenesPresenceDataset(num_images=1, split='test')
