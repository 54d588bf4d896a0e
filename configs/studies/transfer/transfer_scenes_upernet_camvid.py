"""A segmentor of CamVid, fine-tuned around a frozen gate from generated scenes, whose layers are wider.

    python tools/transfer_gate.py configs/msvit_upernet_scenes.py SOURCE_CHECKPOINT \
        configs/studies/transfer/transfer_scenes_upernet_camvid.py gate.pth --target-checkpoint BASE_CHECKPOINT
    python tools/train.py configs/studies/transfer/transfer_scenes_upernet_camvid.py --cfg-options load_from=gate.pth

Runs on two CPU cores. Otherwise transfer_upernet_camvid.py.

A gate from segmentation: 35.93 mIoU; from classification: 34.90; both after 400 of 500 iterations, on a base of 1000
(seed 0, 2026-11-20, docs/moving_gates.md).
"""

_base_ = ['transfer_upernet_camvid.py']
model = dict(backbone=dict(gate=dict(hidden_dims=64)))
