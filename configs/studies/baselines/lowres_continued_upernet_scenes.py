"""A control of from_dense_upernet_scenes.py: the dense network trained on alike on scenes of 72x72, 81 tokens.

    python tools/train.py configs/studies/baselines/lowres_continued_upernet_scenes.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores; scored at 96x96. DENSE.pth: of studies/baselines/dense_fine_upernet_scenes.py.

73.03, 73.83 and 73.00 mIoU, 0.0472 GMACs (seeds 0, 1 and 2, 2026-11-28, docs/ablations.md).
"""

_base_ = [
    '../../_base_/models/msvit_tiny_upernet.py',
    '../../_base_/gates/fine.py',
    '../../_base_/datasets/scenes_72x72.py',
    '../../_base_/schedules/adamw_from_dense.py',
    '../../_base_/runtime/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, gate=dict(_delete_=True, **_base_.stand_in)),
    decode_head=dict(loss_decode=dict(class_weight={{_base_.class_weight}})),
    gate_loss=None,
)
