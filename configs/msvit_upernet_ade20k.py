"""MSViT (DeiT-S) under UPerNet on ADE20K, crops of 512x512, 160k iterations, 8 GPUs x 2, target ratio 0.75.

    bash tools/dist_train.sh configs/msvit_upernet_ade20k.py 8 --amp

Starts from DeiT-S of mmpretrain's model zoo, downloaded the first time; ``--cfg-options model.backbone.init_cfg=None``
from random weights.

Not trained yet.
"""

_base_ = [
    '_base_/models/msvit_upernet.py',
    '_base_/datasets/ade20k_512x512.py',
    '_base_/schedules/adamw_160k.py',
    '_base_/runtime/pretrained.py',
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}))
