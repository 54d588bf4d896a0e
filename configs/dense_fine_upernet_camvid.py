"""The dense baseline of msvit_upernet_camvid.py: every region fine.

python tools/train.py configs/dense_fine_upernet_camvid.py
"""

_base_ = ['msvit_upernet_camvid.py']
model = dict(backbone=dict(gate=dict(_delete_=True, type='FixedGate', scale='fine')), gate_loss=None)
