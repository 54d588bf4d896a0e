"""transfer_upernet_scenes.py with the backbone of msvit_small_upernet_scenes.py: the same gate, another size.

python tools/train.py configs/transfer_small_upernet_scenes.py --cfg-options load_from=gate.pth
"""

_base_ = ['transfer_upernet_scenes.py']
model = dict(
    backbone=dict(
        arch=dict(embed_dims=144, num_layers=6, num_heads=6, feedforward_channels=576), out_indices=[1, 3, 5]
    ),
    neck=dict(in_channels=[144, 144, 144]),
)
