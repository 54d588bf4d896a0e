"""The dense baseline of msvit_upernet_camvid.py: every region coarse.

python tools/train.py configs/dense_coarse_upernet_camvid.py
"""

_base_ = ['msvit_upernet_camvid.py']
model = dict(backbone=dict(gate=dict(_delete_=True, type='FixedGate', scale='coarse')), gate_loss=None)
