"""Which of six shape classes does a scene hold? The procedural scenes of scenes_96x96.py: nothing to download."""

dataset_type = 'ScenesPresenceDataset'
crop_size = (96, 96)
num_classes = 6
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
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
    dict(type='AveragePrecision'),
    dict(type='MultiLabelMetric', thr=0.5, items=['f1-score']),
    dict(type='ComplexityMetric'),
]
test_evaluator = val_evaluator
