"""The dense baseline of msvit_upernet_scenes.py on images of 64x64: as few tokens as at a coarse ratio of .75.

    python tools/train.py configs/dense_lowres_upernet_scenes.py

Runs on two CPU cores.

Seeds 0 and 1 are recorded in docs/benchmarks.md.
"""

_base_ = ['dense_fine_upernet_scenes.py']
crop_size = (64, 64)
resize = dict(type='Resize', scale=crop_size)
# labels shrink in training only: scores are at full resolution
train_pipeline = [*_base_.train_pipeline[:-1], resize, _base_.train_pipeline[-1]]
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[1:]]
tta_pipeline = [_base_.tta_pipeline[0], resize, *_base_.tta_pipeline[1:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(data_preprocessor=dict(size=crop_size), backbone=dict(img_size=crop_size))
