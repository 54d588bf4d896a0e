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
# square roots of SegNet's median-frequency weights, in the order of the classes
class_weight = [0.51, 0.43, 2.14, 0.38, 0.95, 0.62, 3.11, 1.36, 0.83, 2.50, 2.71]
load_image = dict(type='LoadImageFromFile')
load_labels = dict(type='LoadAnnotations')
check_labels = dict(type='CheckLabels', num_classes=num_classes)
resize = dict(type='Resize', scale=scale, keep_ratio=True)
random_resize = dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True)
distort = dict(type='PhotoMetricDistortion')
gate_crops = dict(type='GateCrops', num_crops=3, crop_size=crop_size)
crop = dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75)
flip = dict(type='RandomFlip', prob=0.5)
pack = dict(type='PackSegInputs')
pack_gated = dict(type='PackGatedSegInputs')
img_ratios = [0.75, 1.0, 1.25, 1.5]
resizes = [dict(resize, scale=tuple(int(r * side) for side in scale)) for r in img_ratios]
both_flips = [dict(flip, prob=0.0), dict(flip, prob=1.0)]
train_pipeline = [
    load_image,
    load_labels,
    check_labels,
    random_resize,
    distort,
    gate_crops,
    crop,
    flip,
    pack_gated,
]
# labels are loaded after the resize: they keep their full resolution
test_pipeline = [load_image, resize, load_labels, check_labels, pack]
tta_pipeline = [
    load_image,
    dict(type='TestTimeAug', transforms=[resizes, both_flips, [load_labels], [check_labels], [pack]]),
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
