"""MSViT from scratch under a slim UPerNet on data of your own: two folders, of images and of masks.

    python tools/train.py configs/custom/own_data.py

A copy of it works in any folder. Runs on two CPU cores. Everything to change stands at the top; docs/own_data.md goes
through it. own_data_pretrained.py puts a larger network with pretrained weights on the same data.

42.38 mIoU on 6 of 30 generated images of three classes (seed 0, 2026-11-28; 5 minutes on one core; docs/own_data.md).
"""

_base_ = [
    'msvit_mm::_base_/models/msvit_tiny_upernet.py',
    'msvit_mm::_base_/schedules/adamw_scratch.py',
    'msvit_mm::_base_/runtime/default_runtime.py',
]

# ---- yours to change ----
data_root = 'data/own'
train_folders = dict(img_path='images', seg_map_path='masks')
val_folders = train_folders  # other folders, and val_every = 0, if validation has its own
val_every = 5  # one image of five is for validation
mask_ending = ''  # '_mask' if a.jpg belongs to a_mask.png
foreground_255 = False  # True for binary masks of 0 and 255
classes = ('background', 'object', 'other')  # in the order of the masks' numbers 0, 1, 2; 255 is ignored
palette = [[120, 120, 120], [220, 20, 60], [0, 130, 180]]  # RGB of each in pictures
class_weight = [1.0, 1.0, 1.0]  # higher for rare classes
image_size = (120, 160)  # (height, width) that images are scaled to fit into
crop_size = (96, 128)  # (height, width) of training crops, multiples of 16
batch_size = 8  # the gate's loss compares images: 8 or more
max_iters = 1000  # the gate rests for the first 40 % of them
# ---- the rest follows ----

dataset_type = 'ImageMaskDataset'
num_classes = len(classes)
scale = image_size[::-1]  # (width, height), the host's order for scales
load_image = dict(type='LoadImageFromFile')
load_labels = dict(type='LoadAnnotations')
check_labels = dict(type='CheckLabels', num_classes=num_classes)
resize = dict(type='Resize', scale=scale, keep_ratio=True)
random_resize = dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True)
crop = dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.95)
flip = dict(type='RandomFlip', prob=0.5)
distort = dict(type='PhotoMetricDistortion')
pack = dict(type='PackSegInputs')
both_flips = [dict(flip, prob=0.0), dict(flip, prob=1.0)]
train_pipeline = [load_image, load_labels, check_labels, random_resize, crop, flip, distort, pack]
# labels are loaded after the resize: they keep their full resolution
test_pipeline = [load_image, resize, load_labels, check_labels, pack]
tta_pipeline = [
    load_image,
    dict(type='TestTimeAug', transforms=[[resize], both_flips, [load_labels], [check_labels], [pack]]),
]
dataset = dict(
    type=dataset_type,
    data_root=data_root,
    val_every=val_every,
    mask_ending=mask_ending,
    foreground_255=foreground_255,
    metainfo=dict(classes=classes, palette=palette),
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**dataset, data_prefix=train_folders, split='train' if val_every else None, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, data_prefix=val_folders, split='val' if val_every else None, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='ComplexityMetric'),
    dict(type='GateContentMetric'),
]
test_evaluator = val_evaluator
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size),
    decode_head=dict(num_classes=num_classes, loss_decode=dict(class_weight=class_weight)),
)
warmup_iters = max(1, max_iters // 20)
warmup_lr = dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=warmup_iters)
decay_lr = dict(type='CosineAnnealingLR', eta_min_ratio=0.1, by_epoch=False, begin=warmup_iters, end=max_iters)
param_scheduler = [warmup_lr, decay_lr]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
