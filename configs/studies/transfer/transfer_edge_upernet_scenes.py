"""A segmentor of generated scenes, fine-tuned around the blurred-edge rule, 0.75 of each image coarse.

    python tools/train.py configs/studies/transfer/transfer_edge_upernet_scenes.py \
        --cfg-options load_from=BASE_CHECKPOINT

Runs on two CPU cores. A control of transfer_upernet_scenes.py.

71.16, 76.83 and 71.08 mIoU (seeds 0 to 2, 2026-11-20, docs/moving_gates.md).
"""

_base_ = ['transfer_upernet_scenes.py', '../../_base_/gates/edges.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in, coarse_ratio=_base_.coarse_ratio)))
