"""MSViT from scratch under UPerNet on generated scenes, target coarse ratio 0.75.

    python tools/train.py configs/msvit_upernet_scenes.py

Runs on two CPU cores, 9 minutes.

71.50, 71.56 and 71.14 mIoU at 48 to 49 % of the all-fine GMACs (seeds 0 to 2, one thread each, 2026-11-20,
docs/results.md and metafile.yml); seed 0 on two threads 69.98.
"""

_base_ = [
    '_base_/models/msvit_tiny_upernet.py',
    '_base_/datasets/scenes_96x96.py',
    '_base_/schedules/adamw_scratch.py',
    '_base_/runtime/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    decode_head=dict(loss_decode=dict(class_weight={{_base_.class_weight}})),
)
