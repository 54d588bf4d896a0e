"""msvit_upernet_cityscapes.py at crops and windows of 1024x1024; 8 GPUs x 2 images.

    bash tools/dist_train.sh configs/msvit_upernet_cityscapes_1024x1024.py 8 --amp

Not trained yet.
"""

_base_ = ['msvit_upernet_cityscapes.py']
crop_size = (1024, 1024)
train_pipeline = [
    dict(step, crop_size=crop_size) if step['type'] == 'RandomCrop' else step for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size),
    test_cfg=dict(crop_size=crop_size, stride=(768, 768)),
)
