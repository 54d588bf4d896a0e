"""Data that cannot be read or mean something else: one line that names the file, and nothing is dropped unsaid."""

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from torch.utils.data import DataLoader

from msvit_mm.cli.images import left_out
from msvit_mm.cli.models import _name_samples
from msvit_mm.datasets.named import SampleError

STEPS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='CheckLabels', num_classes=2)]
LABELS = np.pad(np.ones((4, 6), np.uint8), 8)


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def link(path):
    path.unlink()
    path.symlink_to('nowhere')


def save(array, path, **words):
    Image.fromarray(array).save(path, **words)


# What is done to `b.png`, and what the message says of it.
BROKEN = {
    'image of no bytes': ('images', lambda p: p.write_bytes(b''), 'buf.empty'),
    'image cut off': ('images', cut, 'failed to load image'),
    'text as an image': ('images', lambda p: p.write_text('hello'), 'failed to load image'),
    'mask of no bytes': ('labels', lambda p: p.write_bytes(b''), 'cannot identify image file'),
    'mask cut off': ('labels', cut, 'truncated'),
    'text as a mask': ('labels', lambda p: p.write_text('hello'), 'cannot identify image file'),
    'no mask': ('labels', lambda p: p.unlink(), 'No such file'),
    'folder as a mask': ('labels', lambda p: (p.unlink(), p.mkdir()), 'Is a directory'),
    'mask that points nowhere': ('labels', link, 'No such file'),
    'label that is no class': ('labels', lambda p: save(LABELS + 5, p), r'got \[5, 6\]'),
    'mask of another size': ('labels', lambda p: save(LABELS[1:], p), 'wanted a mask of the size of its image'),
    'mask of three channels': ('labels', lambda p: save(np.stack([LABELS] * 3, 2), p), 'one channel'),
    'mask of 16 bits': ('labels', lambda p: save(LABELS.astype(np.uint16) + 256, p), 'labels up to 255'),
    'mask of 0 and 255': ('labels', lambda p: save(LABELS * 255, p), 'divide it by 255'),
}


@pytest.fixture
def build(tmp_path):
    """A data set of three images, of which the second is changed by a function."""

    def build(folder='images', change=lambda path: None):
        init_default_scope('mmseg')
        for name in ('images', 'labels'):
            (tmp_path / name).mkdir()
            for stem in 'abc':
                save(LABELS if name == 'labels' else np.stack([LABELS * 90] * 3, 2), tmp_path / name / f'{stem}.png')
        change(tmp_path / folder / 'b.png')
        prefix = dict(img_path='images', seg_map_path='labels')
        config = dict(type='BaseSegDataset', data_root=str(tmp_path), data_prefix=prefix, img_suffix='.png')
        return config | dict(metainfo=dict(classes=('a', 'b')), pipeline=STEPS)

    return build


@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_file_is_named(build, name, workers):
    dataset = DATASETS.build(build(*BROKEN[name][:2]))
    loader = _name_samples(DataLoader(ConcatDataset([dataset]), batch_size=1, num_workers=workers, collate_fn=list))
    read = []
    message = rf"data: wanted to read '.*b\.png' and '.*b\.png', got .*{BROKEN[name][2]}"
    with pytest.raises(SampleError, match=message) as refused:
        read.extend(loader)
    assert '\n' not in str(refused.value) and len(read) == 1


def test_whole_data_are_read(build):
    loader = _name_samples(DataLoader(DATASETS.build(build()), batch_size=1, collate_fn=list))
    assert [sample['img_path'][-5:] for (sample,) in loader] == ['a.png', 'b.png', 'c.png']


@pytest.mark.parametrize('change', [link, lambda p: (p.unlink(), p.mkdir()), lambda p: p.rename(p.with_suffix('.PNG'))])
def test_images_that_are_left_out_are_said(build, change):
    config = build('images', change)
    assert len(DATASETS.build(config)) == 2
    (line,) = left_out(dict(train_dataloader=dict(dataset=config)), 'train')
    assert '1 of 3 images' in line and 'such as b.' in line


@pytest.mark.parametrize('tag', [3, 6])
def test_an_image_that_is_turned_by_its_tag(build, tmp_path, tag):
    config = build() | dict(img_suffix='.jpg', seg_map_suffix='.png')
    exif = Image.Exif()
    exif[0x0112] = tag
    save(np.stack([LABELS * 90] * 3, 2), tmp_path / 'images' / 'b.jpg', exif=exif)
    with pytest.raises(SampleError, match=r"b\.png'.*EXIF"):
        list(_name_samples(DataLoader(DATASETS.build(config), collate_fn=list)))
