"""Cityscapes, crops of 1024x1024: otherwise cityscapes_512x1024.py."""

_base_ = ['cityscapes_512x1024.py']
crop_size = (1024, 1024)
crop = dict(_base_.crop, crop_size=crop_size)
train_pipeline = [
    _base_.load_image,
    _base_.load_labels,
    _base_.check_labels,
    _base_.random_resize,
    crop,
    _base_.flip,
    _base_.distort,
    _base_.pack,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
