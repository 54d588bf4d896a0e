"""The dense baseline of msvit_upernet_scenes.py: every region fine; runs on two CPU cores.

    python tools/train.py configs/dense_fine_upernet_scenes.py

Not trained yet.
"""

_base_ = ['msvit_upernet_scenes.py']
model = dict(backbone=dict(gate=dict(_delete_=True, type='FixedGate', scale='fine')), gate_loss=None)
