"""MSViT (DeiT-S) under Segmenter on Cityscapes, crops of 768x768, 80k iterations, 8 GPUs x 1 image, target ratio .75.

    bash tools/dist_train.sh configs/msvit_segmenter_cityscapes.py 8 --amp

Pretrained weights, converted with ``--config configs/msvit_segmenter_cityscapes.py``, and batch size as in
msvit_segmenter_ade20k.py; crops, windows and schedule are Segmenter's own.

Not trained yet.
"""

_base_ = [
    '_base_/models/msvit_segmenter.py',
    '_base_/datasets/cityscapes_512x1024.py',
    '_base_/schedules/sgd_80k.py',
    '_base_/default_runtime.py',
]
crop_size = (768, 768)
train_pipeline = [
    dict(step, crop_size=crop_size) if step['type'] == 'RandomCrop' else step for step in _base_.train_pipeline
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size),
    decode_head=dict(num_classes={{_base_.num_classes}}),
    test_cfg=dict(crop_size=crop_size, stride=(512, 512)),
)
custom_hooks = [dict(type='GateScheduleHook', warmup=0.2), dict(type='GateStatisticsHook')]
