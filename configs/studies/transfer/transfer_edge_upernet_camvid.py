"""A segmentor of CamVid, fine-tuned around the blurred-edge rule, 0.75 of each image coarse.

    python tools/train.py configs/studies/transfer/transfer_edge_upernet_camvid.py \
        --cfg-options load_from=BASE_CHECKPOINT

Runs on two CPU cores. A control of transfer_upernet_camvid.py.

34.90 mIoU after 400 of 500 iterations, on a base of 1000 (seed 0, 2026-11-20, docs/moving_gates.md).
"""

_base_ = ['transfer_upernet_camvid.py', '../../_base_/gates/edges.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in, coarse_ratio=_base_.coarse_ratio)))
