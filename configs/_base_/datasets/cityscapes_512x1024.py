"""Cityscapes, crops of 512x1024: mmsegmentation's settings, batch 2 per GPU, with checked labels.

Expects ``data/cityscapes/{leftImg8bit,gtFine}/{train,val}/<city>``, labels as ``*_gtFine_labelTrainIds.png``.
"""

dataset_type = 'CityscapesDataset'
data_root = 'data/cityscapes'
crop_size = (512, 1024)
num_classes = 19
scale = (2048, 1024)  # (width, height)
load_image = dict(type='LoadImageFromFile')
load_labels = dict(type='LoadAnnotations')
check_labels = dict(type='CheckLabels', num_classes=num_classes)
resize = dict(type='Resize', scale=scale, keep_ratio=True)
random_resize = dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True)
crop = dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75)
flip = dict(type='RandomFlip', prob=0.5)
distort = dict(type='PhotoMetricDistortion')
pack = dict(type='PackSegInputs')
img_ratios = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
resizes = [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in img_ratios]
both_flips = [dict(flip, prob=0.0), dict(flip, prob=1.0)]
train_pipeline = [load_image, load_labels, check_labels, random_resize, crop, flip, distort, pack]
# labels are loaded after the resize: they keep their full resolution
test_pipeline = [load_image, resize, load_labels, check_labels, pack]
tta_pipeline = [
    load_image,
    dict(type='TestTimeAug', transforms=[resizes, both_flips, [load_labels], [check_labels], [pack]]),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']), dict(type='ComplexityMetric')]
test_evaluator = val_evaluator
