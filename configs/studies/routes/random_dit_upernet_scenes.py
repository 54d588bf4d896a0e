"""Token-routed PVTv2-b0 on generated scenes under random routes that cost 0.6 of plain PVTv2.

    python tools/train.py configs/studies/routes/random_dit_upernet_scenes.py

Runs on two CPU cores. A baseline of dit_upernet_scenes.py. ``active_ratio_of`` of the backbone gives the share of open
tokens for other costs.

78.30 and 78.19 mIoU where the routes were random from iteration 1000 on (2026-11-21); 60.22 and 67.46 where they were
so from the first and cost 0.65, after 1250 of 2500 iterations (2026-11-20; all of seeds 0 and 1, docs/routes.md).
"""

_base_ = ['../../dit_upernet_scenes.py']
model = dict(backbone=dict(gate=dict(_delete_=True, type='RandomRoutes', active_ratio=0.0998)), gate_loss=None)
