"""``msvit scenes-to-coco`` writes what a detector of mmdet reads."""

import json

from msvit_mm.datasets.coco import SHAPE_CLASSES


def test_command_writes_both_splits(run, fail, tmp_path):
    out = tmp_path / 'coco'
    assert 'train: 3 images' in run('scenes-to-coco', out, '--num-images', 3, 2, '--size', 64, 96)
    record = json.loads((out / 'annotations/instances_train2017.json').read_text())
    assert [image['file_name'] for image in record['images']] == ['00000.png', '00001.png', '00002.png']
    assert all((out / 'train2017' / image['file_name']).is_file() for image in record['images'])
    assert [x['name'] for x in record['categories']] == list(SHAPE_CLASSES)
    assert [x['id'] for x in record['annotations']] == list(range(1, len(record['annotations']) + 1))
    assert {x['image_id'] for x in record['annotations']} == {0, 1, 2}
    assert len(list((out / 'val2017').iterdir())) == 2
    assert 'wanted a new or empty folder' in fail('scenes-to-coco', out)
    assert 'at least 32 pixels' in fail('scenes-to-coco', tmp_path / 'b', '--size', 8, 8)
