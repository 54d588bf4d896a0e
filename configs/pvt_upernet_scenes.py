"""The dense baseline of dit_upernet_scenes.py: plain PVTv2-b0; runs on two CPU cores.

    python tools/train.py configs/pvt_upernet_scenes.py

docs/benchmarks.md records seeds 0 and 1.
"""

_base_ = ['dit_upernet_scenes.py']
model = dict(
    backbone=dict(
        num_stages=4, extra_depth=0, merge='none', gate=dict(_delete_=True, type='FixedRoutes', routes='open')
    ),
    gate_loss=None,
)
