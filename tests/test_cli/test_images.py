import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from msvit_mm.cli.images import check_data, find_images, load_images, load_split

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=10),
    dict(type='PackSegInputs'),
]
SCENES = dict(type='ScenesDataset', num_images=9, size=(32, 48), split='val', seed=0, pipeline=PIPELINE)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'below').mkdir()
    for value, name in enumerate(('a.png', 'below/c.PNG', 'b.jpg')):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), 10 * value, np.uint8))
    (tmp_path / 'notes.txt').write_text('no image')
    return tmp_path


def test_images_are_spaced_over_the_data_set():
    everything, some = load_images(SCENES), load_images(SCENES, 3)
    assert (len(everything), len(some), len(load_images(SCENES, 99))) == (9, 3, 9)
    for i in range(3):
        assert torch.equal(some[i]['inputs'][0], everything[3 * i]['inputs'][0])
    assert not torch.equal(some[0]['inputs'][0], some[1]['inputs'][0])
    assert 'gt_sem_seg' not in some[0]['data_samples'][0]


def test_images_of_a_folder_take_its_place(folder):
    images = load_images(SCENES, folder=str(folder))
    assert [int(batch['inputs'][0][0, 5, 5]) for batch in images] == [0, 20, 10]
    assert images[0]['inputs'][0].shape == (3, 20, 30)


def test_folders_without_images_are_refused(folder):
    (folder / 'empty').mkdir()
    with pytest.raises(ValueError, match=r'wanted an image file or a folder with .jpg.*, got none'):
        find_images(folder / 'empty')
    (folder / 'broken.png').write_text('no image')
    with pytest.raises(ValueError, match=r'broken.png.*wanted a readable image file, got none'):
        find_images(folder)
    with pytest.raises(ValueError, match='images: wanted at least one, got 0 of 9'):
        load_images(SCENES, 0)


@pytest.mark.parametrize(('folder', 'got'), [('absent', 'no such folder'), ('empty', 'an empty folder')])
def test_folder_without_data(tmp_path, folder, got):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'image.png').touch()
    dataset = dict(data_root=str(tmp_path), data_prefix=dict(img_path='full', seg_map_path=folder))
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dataset)), val_dataloader=None))
    check_data(cfg, 'val')
    with pytest.raises(ValueError, match=f"train data: wanted files in '.*{folder}', got {got}"):
        check_data(cfg, 'train', 'val')


def test_wrapped_data_sets_and_scoped_types():
    pipeline = [dict(type=name) for name in ('LoadImageFromFile', 'mmseg.LoadAnnotations', 'mmseg.PackSegInputs')]
    few = dict(SCENES, num_images=3, pipeline=pipeline)
    wrapped = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[few, SCENES]))
    cfg = Config(dict(test_dataloader=dict(dataset=wrapped)))
    images = load_split(cfg, 'test')
    assert len(images) == 3 + 9
    assert images[0]['inputs'][0].shape[0] == 3
    folders = dict(type='BaseSegDataset', data_root='data', data_prefix=dict(img_path='images', seg_map_path='absent'))
    cfg = Config(dict(test_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[SCENES, folders]))))
    with pytest.raises(ValueError, match="test data: wanted files in 'data/images', got no such folder"):
        check_data(cfg, 'test')


def test_images_that_are_left_out_are_said(tmp_path, capsys):
    for name in ('a.jpg', 'b.jpeg', 'c.JPG'):
        (tmp_path / 'images').mkdir(exist_ok=True)
        (tmp_path / 'images' / name).touch()
    dataset = dict(type='BaseSegDataset', data_root=str(tmp_path), img_suffix='.jpg')
    dataset |= dict(data_prefix=dict(img_path='images'))
    check_data(Config(dict(train_dataloader=dict(dataset=dataset))), 'train')
    (tmp_path / 'images' / 'a_link.jpg').symlink_to('nowhere')
    check_data(Config(dict(train_dataloader=dict(dataset=dataset))), 'train')
    first, second = capsys.readouterr().err.splitlines()
    assert "train data: 2 of 3 images in '" in first
    assert "are no files that end in '.jpg' and are left out, such as b.jpeg" in first
    assert '3 of 4 images' in second and 'such as a_link.jpg' in second
