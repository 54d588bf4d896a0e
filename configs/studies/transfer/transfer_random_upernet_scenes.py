"""A segmentor of generated scenes, fine-tuned around random regions, 0.75 of each image coarse.

    python tools/train.py configs/studies/transfer/transfer_random_upernet_scenes.py \
        --cfg-options load_from=BASE_CHECKPOINT

Runs on two CPU cores. A control of transfer_upernet_scenes.py.

64.36, 68.12 and 64.39 mIoU (seeds 0 to 2, 2026-11-20, docs/moving_gates.md).
"""

_base_ = ['transfer_upernet_scenes.py', '../../_base_/gates/random.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in, coarse_ratio=_base_.coarse_ratio)))
