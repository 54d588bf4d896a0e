"""MSSwin (Swin-T) under UPerNet on ADE20K, crops of 512x512, 160k iterations, 8 GPUs x 2, target ratio 0.75.

    bash tools/dist_train.sh configs/msswin_tiny_upernet_ade20k.py 8 --amp

Starts from Swin-T of mmpretrain's model zoo, downloaded the first time; ``--cfg-options model.backbone.init_cfg=None``
from random weights; from the file of Swin's authors, or of timm, with ``--cfg-options``:

    model.backbone.init_cfg.checkpoint=swin_tiny_patch4_window7_224.pth
    model.backbone.init_cfg.convert=True model.backbone.init_cfg.prefix=None

Not trained yet.
"""

_base_ = [
    '_base_/models/msswin_upernet.py',
    '_base_/datasets/ade20k_512x512.py',
    '_base_/schedules/adamw_160k.py',
    '_base_/runtime/pretrained.py',
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'relative_position_bias_table': dict(decay_mult=0.0), 'norm': dict(decay_mult=0.0)})
)
