"""MSViT (DeiT-S) on ADE20K under a slim UPerNet that does not drown what a gate saves: 128 channels, strides 8 to 64.

    bash tools/dist_train.sh configs/msvit_slim_upernet_ade20k.py 8 --amp

8 GPUs x 2 images. Otherwise msvit_upernet_ade20k.py, pretrained weights included.

Not trained yet.
"""

_base_ = ['msvit_upernet_ade20k.py']
model = dict(
    neck=dict(out_channels=128, scales=[2, 1, 0.5, 0.25]),
    decode_head=dict(in_channels=[128, 128, 128, 128], channels=128),
    auxiliary_head=dict(in_channels=128, channels=128),
)
