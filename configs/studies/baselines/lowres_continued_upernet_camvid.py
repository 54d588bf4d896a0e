"""A control of from_dense_upernet_camvid.py: the dense network trained on alike on photographs of 136x181, 391 tokens.

    python tools/train.py configs/studies/baselines/lowres_continued_upernet_camvid.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores; scored at full resolution. DENSE.pth: of studies/baselines/dense_fine_upernet_camvid.py.

49.74, 50.43 and 50.41 mIoU, 0.321 GMACs (seeds 0, 1 and 2, 2026-11-29, docs/ablations.md).
"""

_base_ = [
    '../../_base_/models/msvit_tiny_upernet.py',
    '../../_base_/gates/fine.py',
    '../../_base_/datasets/camvid_120x168.py',
    '../../_base_/schedules/adamw_from_dense.py',
    '../../_base_/runtime/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, gate=dict(_delete_=True, **_base_.stand_in)),
    decode_head=dict(num_classes={{_base_.num_classes}}, loss_decode=dict(class_weight={{_base_.class_weight}})),
    gate_loss=None,
)
