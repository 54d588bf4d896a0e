"""A small ViT under a small Mask R-CNN on generated scenes, every region fine. Optional.

    msvit scenes-to-coco data/scenes_coco --num-images 2000 256
    python tools/train.py configs/detection/dense_mask_rcnn_scenes.py

Runs on two CPU cores. The dense baseline of msvit_mask_rcnn_scenes.py.

78.6 box AP and 82.0 mask AP at 144 tokens, from a dense backbone (seed 0, 2026-11-28, docs/detection.md).
"""

_base_ = ['msvit_mask_rcnn_scenes.py', '../_base_/gates/fine.py']
model = dict(backbone=dict(gate=dict(_delete_=True, **_base_.stand_in)), gate_loss=None)
