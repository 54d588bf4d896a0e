"""The dense baseline of msvit_upernet_camvid.py on images of 126x168: 336 tokens, about what its gate leaves of 690.

    python tools/train.py configs/dense_lowres_upernet_camvid.py

Runs on two CPU cores.

Seed 0 is recorded in docs/benchmarks.md.
"""

_base_ = ['dense_fine_upernet_camvid.py']
scale = (168, 126)  # (width, height)
crop_size = (112, 160)
train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
resize = dict(type='Resize', scale=scale, keep_ratio=True)
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
resizes = [
    dict(type='Resize', scale=tuple(int(r * side) for side in scale), keep_ratio=True) for r in _base_.img_ratios
]
tta_pipeline = [
    _base_.tta_pipeline[0],
    dict(type='TestTimeAug', transforms=[resizes, *_base_.tta_pipeline[1].transforms[1:]]),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(data_preprocessor=dict(size=crop_size), backbone=dict(img_size=crop_size))
