"""transfer_upernet_camvid.py for a gate from Scenes, whose layers are wider.

    python tools/transfer_gate.py configs/msvit_upernet_scenes.py SOURCE_CHECKPOINT \
        configs/transfer_scenes_upernet_camvid.py gate.pth --target-checkpoint BASE_CHECKPOINT
    python tools/train.py configs/transfer_scenes_upernet_camvid.py --cfg-options load_from=gate.pth
"""

_base_ = ['transfer_upernet_camvid.py']
model = dict(backbone=dict(gate=dict(hidden_dims=64)))
