"""MSSwin from scratch under UPerNet on generated scenes, target coarse ratio 0.75.

    python tools/train.py configs/msswin_upernet_scenes.py

Runs on two CPU cores.

80.76 and 82.83 mIoU, 0.0307 and 0.0313 GMACs (seeds 0 and 1, 2026-11-28, docs/swin.md).
"""

_base_ = [
    '_base_/models/msswin_small_upernet.py',
    '_base_/datasets/scenes_96x96.py',
    '_base_/schedules/adamw_scratch.py',
    '_base_/runtime/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    decode_head=dict(loss_decode=dict(class_weight={{_base_.class_weight}})),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'relative_position_bias_table': dict(decay_mult=0.0), 'norm': dict(decay_mult=0.0)})
)
