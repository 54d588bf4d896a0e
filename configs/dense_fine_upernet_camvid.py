"""The dense baseline of msvit_upernet_camvid.py: every region fine.

python tools/train.py configs/dense_fine_upernet_camvid.py

49.1 mIoU (seed 0, 2026-11-20; 33 minutes on one core).
"""

_base_ = ['msvit_upernet_camvid.py']
model = dict(backbone=dict(gate=dict(_delete_=True, type='FixedGate', scale='fine')), gate_loss=None)
