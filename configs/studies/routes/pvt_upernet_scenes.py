"""Plain PVTv2-b0 from scratch under UPerNet on generated scenes.

    python tools/train.py configs/studies/routes/pvt_upernet_scenes.py

Runs on two CPU cores. The dense baseline of dit_upernet_scenes.py.

85.93 and 86.56 mIoU, 0.106 GMACs (seeds 0 and 1, 2026-11-21, docs/routes.md).
"""

_base_ = ['../../dit_upernet_scenes.py']
model = dict(
    backbone=dict(
        num_stages=4, extra_depth=0, merge='none', gate=dict(_delete_=True, type='FixedRoutes', routes='open')
    ),
    gate_loss=None,
)
