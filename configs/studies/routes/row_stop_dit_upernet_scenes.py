"""Token-routed PVTv2-b0 on generated scenes whose rows end, image by image, at their first empty stage.

    python tools/train.py configs/studies/routes/row_stop_dit_upernet_scenes.py

Runs on two CPU cores. Otherwise dit_upernet_scenes.py, whose rows may open again after a stage without open tokens.

Not trained yet.
"""

_base_ = ['../../dit_upernet_scenes.py']
model = dict(backbone=dict(row_stop=True))
