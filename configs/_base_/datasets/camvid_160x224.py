"""CamVid at half resolution (180x240), random crops of 160x224, and three further crops per image for the gate.

Expects ``data/camvid/{images,annotations}/{train,val}``. Where it lies elsewhere, link it
(``ln -s /there data/camvid``) or add
``--cfg-options train_dataloader.dataset.data_root=/there val_dataloader.dataset.data_root=/there
test_dataloader.dataset.data_root=/there``.

Photometric distortion precedes the gate's crops, so that the gate sees it there too. Scores are at full resolution.
"""

dataset_type = 'CamVidDataset'
data_root = 'data/camvid'
scale = (240, 180)  # (width, height), the host's order for scales
crop_size = (160, 224)
num_classes = 11
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=num_classes),
    dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='PhotoMetricDistortion'),
    dict(type='GateCrops', num_crops=3, crop_size=crop_size),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackGatedSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    # after Resize: the labels keep their full resolution
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=num_classes),
    dict(type='PackSegInputs'),
]
img_ratios = [0.75, 1.0, 1.25, 1.5]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=tuple(int(r * s) for s in scale), keep_ratio=True) for r in img_ratios],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='CheckLabels', num_classes=num_classes)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='BoundaryIoUMetric', iou_metrics=['mIoU'], distance=8),
    dict(type='ComplexityMetric'),
    dict(type='GateContentMetric'),
]
test_evaluator = val_evaluator
