"""The dense baseline of msvit_upernet_scenes.py: every region fine; runs on two CPU cores.

    python tools/train.py configs/dense_fine_upernet_scenes.py

Seeds 0 and 1 are recorded in docs/benchmarks.md.
"""

_base_ = ['msvit_upernet_scenes.py']
model = dict(backbone=dict(gate=dict(_delete_=True, type='FixedGate', scale='fine')), gate_loss=None)
