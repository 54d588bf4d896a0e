"""MSSwin (Swin-T) on ADE20K under a slim UPerNet that does not drown what a gate saves: 128 channels.

    bash tools/dist_train.sh configs/msswin_tiny_slim_upernet_ade20k.py 8 --amp

8 GPUs x 2 images. Otherwise msswin_tiny_upernet_ade20k.py, pretrained weights included.

Not trained yet.
"""

_base_ = ['msswin_tiny_upernet_ade20k.py']
model = dict(decode_head=dict(channels=128), auxiliary_head=dict(channels=128))
