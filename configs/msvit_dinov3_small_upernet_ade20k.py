"""MSViT (DINOv3 ViT-S/16) under UPerNet on ADE20K, crops of 512x512, 160k iterations, 8 GPUs x 2, target ratio 0.75.

    bash tools/dist_train.sh configs/msvit_dinov3_small_upernet_ade20k.py 8 --amp

Registers and rotary positions: a coarse token's place is its centre. Fetch the weights under DINOv3's licence, timm's
``vit_small_patch16_dinov3.lvd1689m.safetensors`` into this folder, or the authors' file and say where it is:

    --cfg-options model.backbone.init_cfg.checkpoint=FILE

Not trained yet.
"""

_base_ = [
    '_base_/models/msvit_upernet.py',
    '_base_/weights/dinov3_small.py',
    '_base_/datasets/ade20k_512x512.py',
    '_base_/schedules/adamw_160k.py',
    '_base_/runtime/pretrained.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone={{_base_.dinov3}},
)
