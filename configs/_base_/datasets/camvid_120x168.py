"""CamVid at 136x181, random crops of 120x168: dense networks at the multiply-adds of MSViT with 0.68 coarse.

Folders and scores are those of camvid_160x224.py.
"""

_base_ = ['camvid_160x224.py']
scale = (182, 136)  # (width, height)
crop_size = (120, 168)
resize = dict(_base_.resize, scale=scale)
random_resize = dict(_base_.random_resize, scale=scale)
crop = dict(_base_.crop, crop_size=crop_size)
resizes = [dict(_base_.resize, scale=tuple(int(r * side) for side in scale)) for r in _base_.img_ratios]
train_pipeline = [
    _base_.load_image,
    _base_.load_labels,
    _base_.check_labels,
    random_resize,
    _base_.distort,
    crop,
    _base_.flip,
    _base_.pack,
]
test_pipeline = [_base_.load_image, resize, _base_.load_labels, _base_.check_labels, _base_.pack]
tta_pipeline = [
    _base_.load_image,
    dict(
        type='TestTimeAug',
        transforms=[resizes, _base_.both_flips, [_base_.load_labels], [_base_.check_labels], [_base_.pack]],
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
