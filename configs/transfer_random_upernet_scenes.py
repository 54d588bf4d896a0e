"""A control of transfer_upernet_scenes.py: random regions are coarse, .75 of each image.

python tools/train.py configs/transfer_random_upernet_scenes.py --cfg-options load_from=BASE_CHECKPOINT
"""

_base_ = ['transfer_upernet_scenes.py']
model = dict(backbone=dict(gate=dict(_delete_=True, type='RandomGate', coarse_ratio={{_base_.coarse_ratio}})))
