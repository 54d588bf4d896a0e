"""MSViT from a trained dense network on CamVid, around a gate with context that was fitted to class boundaries first.

    python tools/fit_gate.py configs/studies/transfer/from_dense_upernet_camvid.py DENSE.pth fitted.pth \
        --coarse-ratio 0.68
    python tools/train.py configs/studies/transfer/from_dense_upernet_camvid.py --cfg-options load_from=fitted.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_camvid.py.

51.45, 50.25 and 52.34 mIoU at 0.311 GMACs, where the dense network trained on for as long has
52.97, 52.98 and 53.98 at 0.725 (seeds 0, 1 and 2, 2026-11-29, docs/ablations.md).
"""

_base_ = [
    '../../_base_/models/msvit_tiny_upernet.py',
    '../../_base_/datasets/camvid_160x224.py',
    '../../_base_/schedules/adamw_from_dense.py',
    '../../_base_/runtime/default_runtime.py',
]
coarse_ratio = 0.68  # 44 % of the dense network's multiply-adds, head included
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(
        img_size={{_base_.crop_size}},
        gate=dict(_delete_=True, type='ContextGate', coarse_patch_size=16, initial_ratio=coarse_ratio, frozen=True),
        coarse_embedding='own',
        detail=dict(hidden_dims=64, levels=(0, 1)),
    ),
    decode_head=dict(num_classes={{_base_.num_classes}}, loss_decode=dict(class_weight={{_base_.class_weight}})),
    gate_loss=None,
)
