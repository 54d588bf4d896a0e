"""MSViT (DeiT-S) of three scales under UPerNet on Cityscapes, crops of 1024x1024, 160k iterations, 8 GPUs x 2 images.

    bash tools/dist_train.sh configs/msvit_scales_upernet_cityscapes_1024x1024.py 8 --amp

Patches of 16, 32 and 64 pixels, each scale coarse to three quarters: 640 of 4096 tokens instead of 1792 of two scales.
Otherwise msvit_upernet_cityscapes_1024x1024.py, pretrained weights included; coarse pixels, detail and utility loss are
those of each scale.

Not trained yet.
"""

_base_ = ['msvit_upernet_cityscapes_1024x1024.py']
model = dict(backbone=dict(patch_sizes=(16, 32, 64)))
