"""A small ViT under a small Mask R-CNN on generated scenes, every region fine. Optional.

    python tools/train.py configs/detection/dense_mask_rcnn_scenes.py

Runs on two CPU cores. The dense baseline of msvit_mask_rcnn_scenes.py.

Not trained yet.
"""

_base_ = ['msvit_mask_rcnn_scenes.py', '../_base_/gates/fine.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in)), gate_loss=None)
