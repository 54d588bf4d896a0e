"""Procedural scenes of 96x96 pixels, 10 classes, drawn on demand: nothing to download.

4000 training and 256 validation images that never coincide. About 42 % of the 16x16 regions hold a
class boundary, 23 % a small shape.
"""

dataset_type = 'ScenesDataset'
crop_size = (96, 96)
num_classes = 10
class_weight = [1.0] * 4 + [3.0] * 6  # shapes cover 1 to 2 % of the pixels each, areas over 20 %
load_image = dict(type='LoadImageFromFile')
load_labels = dict(type='LoadAnnotations')
check_labels = dict(type='CheckLabels', num_classes=num_classes)
flip = dict(type='RandomFlip', prob=0.5)
pack = dict(type='PackSegInputs')
both_flips = [dict(flip, prob=0.0), dict(flip, prob=1.0)]
augmented = dict(type='TestTimeAug', transforms=[both_flips, [load_labels], [check_labels], [pack]])
train_pipeline = [load_image, load_labels, check_labels, flip, pack]
test_pipeline = [load_image, load_labels, check_labels, pack]
tta_pipeline = [load_image, augmented]
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type=dataset_type, num_images=4000, size=crop_size, split='train', seed=0, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        num_images=256,
        size=crop_size,
        split='val',
        seed=0,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='ComplexityMetric'),
    dict(type='GateContentMetric'),
]
test_evaluator = val_evaluator
