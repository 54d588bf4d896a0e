"""A control of transfer_upernet_scenes.py: the regions with the least blurred edge are coarse, .75 of each image.

python tools/train.py configs/transfer_edge_upernet_scenes.py --cfg-options load_from=BASE_CHECKPOINT
"""

_base_ = ['transfer_upernet_scenes.py']
model = dict(backbone=dict(gate=dict(_delete_=True, type='EdgeGate', coarse_ratio={{_base_.coarse_ratio}})))
